# SPDX-License-Identifier: Apache-2.0
"""Every renderer on a screen of 80 columns and as JSON: `parity` is drawn by those of `export` and `validate`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.vitedge.render.samples import (
    BAD,
    BENCH,
    DEMO,
    FINDING,
    INSPECTION,
    MANIFEST,
    ON_A_MAC,
    OVERFLOW,
    PROGRAM,
    UNSOUND,
)
from vitedge.devices.profiles import profiles as devices
from vitedge.records import Validation
from vitedge.render import bench, demo, export, inspect, profiles, screen, validate
from vitedge.verbs.records import ExportResult

CASES: dict[str, tuple[Callable[..., None], Any, tuple[str, ...]]] = {
    "inspection": (
        inspect.render,
        INSPECTION,
        (
            "assumed: check it",
            "1024 768",
            "192 384 768 1536",
            "model_ema (also here: model,",
            "goldfish",
            "… (3)",
            "21841",
            "1,234,567,890 parameters, 1234.57 GMACs",
            "left out: decoder.0.weight and 8 more (reconstruction is for training)",
            "note: The file does not tell heads",
            "next: vitedge export /a/very/long",
        ),
    ),
    "export": (
        export.render,
        ExportResult("my bundle", 2_469_148_280, MANIFEST, {"a": 1.0, "b": 2.5}, ("TensorRT is not reached.",)),
        (
            "batchx3x1024x768 float16",
            "macOS15",
            "1.2 GB",
            "1.2e-05",
            "100.0",
            "100.0%",
            "structure",
            "passed",
            "TensorRT is not reached.",
            "Softmax stays in float32.",
            "speed: fp16 takes 1.00 ms here",
            "my bundle: model.onnx 1.2 GB, model.mlpackage 1.2 GB, verified on 16 images, in 3.5 s",
            "my bundle/README.md: how to use it; the reference outputs and programs take 12.5 kB more",
            "next: vitedge bench 'my bundle'",
        ),
    ),
    "validation": (
        validate.render,
        Validation(
            "some/where",
            (BAD, PROGRAM, ON_A_MAC),
            (UNSOUND,),
            5,
            passed=False,
            overflow=(OVERFLOW,),
            findings=(FINDING,),
        ),
        (
            "FAILED",
            "inf",
            "nan",
            "departs first",
            "model.onnx: logits is off by 0.5 relative",
            "model.mlpackage: constant head_weight is not finite",
            "some/where: 5 files as the manifest describes them, NOT valid",
        ),
    ),
    "bench": (
        bench.render,
        BENCH,
        (
            "1300.25",
            "1400.50",
            "1600.25",
            "12.3%",
            "12345",
            "12346 MB",
            "b takes 1.50 x the time of a (95 % interval 1.40 to 1.60): slower",
            "swin-large-384-fp16/model.onnx did not run steadily (drift -5.7%)",
        ),
    ),
    "demo": (
        demo.render,
        DEMO,
        (
            "reference",
            "98.7%",
            "12.35",
            "its own runtime is not on this machine",
            "637.0 kB",
            "540 test images",
            "MobileViT: int8 is fast",
            "onnx pruned",
            "pruned to 0.69 of the MACs, 25 dB from the dense PyTorch model",
            "refitted on 64 of the test images, without their labels",
            "demo out: 4 artifacts of 2.0 MB, every one verified, in 58 s",
            "validate 'demo out'/mobilevit",
        ),
    ),
    "profiles": (profiles.render, devices(), ("cpu-x86", "jetson-orin-nano", "iOS17", "fp16")),
}


@pytest.fixture(autouse=True)
def _narrow() -> Iterator[None]:
    before = screen._OUT.width
    screen._OUT.width = 80
    yield
    screen._OUT.width = before


@pytest.mark.parametrize("name", CASES)
def test_tables_fit_the_screen_and_nothing_is_cut_off(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    function, record, words = CASES[name]
    function(record, as_json=False)
    shown, errors = capsys.readouterr()
    assert errors == ""
    for word in words:
        assert word in shown
    # What is to be copied or to be read as a sentence is not broken; everything else is.
    wide = [line for line in shown.splitlines() if len(line) > 80]
    assert [line for line in wide if ": " not in line] == []


@pytest.mark.parametrize("name", CASES)
def test_json_is_one_document_without_anything_around_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    function, record, _ = CASES[name]
    function(record, as_json=True)
    shown, errors = capsys.readouterr()
    assert errors == ""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    assert isinstance(json.loads(shown, parse_constant=refuse), dict)
    assert shown.endswith("}\n")


def test_progress_and_errors_go_to_the_other_stream(capsys: pytest.CaptureFixture[str]) -> None:
    screen.progress("lowering [bold]…")
    screen.error("There is no model[1].pth; " + "x" * 100)
    shown, errors = capsys.readouterr()
    assert shown == ""
    assert errors == "lowering [bold]…\nvitedge: There is no model[1].pth; " + "x" * 100 + "\n"


def test_a_terminal_shows_lines_that_end_between_words_and_commands_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen._OUT, "_force_terminal", True)
    prose = "note: the class folders were counted in the order of their names, as most tools do, and 0.5 is assumed"
    command = f"next: vitedge export {' '.join(['photos/'] * 12)}"
    path = f"the labels were read from {'folder/' * 20}labels.txt again"
    screen.lines(prose, command, path)
    *wrapped, shown, path_shown = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in wrapped] == [prose[:79], prose[80:]]
    assert (shown, path_shown) == (command, path)
