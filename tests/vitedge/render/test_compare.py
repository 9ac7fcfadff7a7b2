# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.vitedge.render.samples import ARTIFACTS, GOOD, latency
from vitedge.accuracy.metrics import mcnemar, proportion
from vitedge.accuracy.records import PairedAccuracy, SubjectAccuracy
from vitedge.render import screen
from vitedge.render.compare import render
from vitedge.verbs.records import FAILED, NOT_MADE, WITHIN, Candidate, Comparison

NAME, PLAIN = "coreml int8-dynamic", "onnx fp32"
REFERENCE = SubjectAccuracy("reference", "a.pth", "torch", proportion(41_000, 50_000), None, None)
TIMED = replace(latency(NAME, "onnxruntime", stable=True), typical_ms=(1234.5, 1250.25, 1301.5), device={"threads": 2})
FIRST = Candidate(
    NAME,
    "coreml",
    "int8-dynamic",
    "",
    "vitedge export a.pth -o BUNDLE --precision int8-dynamic",
    WITHIN,
    artifact=replace(ARTIFACTS[0], size=123_400_000),
    parity=(GOOD,),
    latency=TIMED,
    accuracy=replace(REFERENCE, subject=NAME),
    loss=PairedAccuracy(NAME, "reference", 123, 4, 0.238, mcnemar(123, 4)),
)
WRONG = Candidate("onnx int8", "onnx", "int8", "", "", FAILED, reason="model.onnx is off: 17.3 dB, below 20 dB.")
ABSENT = Candidate(PLAIN, "onnx", "fp32", "", "", NOT_MADE, reason="ONNX needs onnx, which is not installed.")
RESULT = Comparison(
    source="a.pth",
    device="local",
    image_source="photos, 8 of 200 images, SHA-256 0123456789abcdef",
    candidates=(FIRST, replace(FIRST, name="coreml w8", latency=None, not_timed="No Mac.", loss=None), WRONG, ABSENT),
    ratios=(),
    recommended=NAME,
    why="it is the only one within tolerance that was timed",
    command=FIRST.command,
    reference=REFERENCE,
    label_source="val, all 50000 images",
    notes=("the machine was busy",),
    seconds=83.2,
)


@pytest.fixture(autouse=True)
def _narrow() -> Iterator[None]:
    before = screen._OUT.width
    screen._OUT.width = 80
    yield
    screen._OUT.width = before


def shown(result: Comparison, capsys: pytest.CaptureFixture[str]) -> list[str]:
    render(result, as_json=False)
    return capsys.readouterr().out.splitlines()


def test_the_table_fits_80_columns_and_marks_what_to_ship(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(RESULT, capsys)
    table = out[: next(index for index, line in enumerate(out) if line.startswith("ms:"))]
    assert max(map(len, table)) <= 80
    (row,) = [line for line in table if "recommended" in line]
    assert "123.4 MB" in row
    assert "1250" in row
    assert "82.00%" in row
    assert "-0.24" in row
    assert "99.96" in row or "100.0" in row
    assert [line.split()[-1] for line in table if "onnx int8" in line] == ["FAILED"]
    assert any("not made" in line for line in table)


def test_below_it_is_what_a_row_has_no_room_for(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(RESULT, capsys)
    assert f"recommended: {NAME}: {RESULT.why}" in out
    assert "onnx int8: FAILED: model.onnx is off: 17.3 dB, below 20 dB." in out
    assert "not timed: coreml w8: No Mac." in out
    assert f"{NAME}: 123 images lost, 4 gained (exact McNemar p = {mcnemar(123, 4):.2g})" in out
    assert "note: the machine was busy" in out
    assert out[-1] == f"next: {FIRST.command}"


def test_what_was_kept_is_checked_next(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(replace(RESULT, kept={NAME: "my bundle"}, size=5_000_000), capsys)
    assert out[-3:] == [
        "4 compared in 83 s; my bundle: 5.0 MB",
        f"made by: {FIRST.command}",
        "next: vitedge validate 'my bundle'",
    ]
    out = shown(replace(RESULT, kept={NAME: "all/first", "coreml w8": "all/second"}, size=5_000_000), capsys)
    assert "kept: all/first, all/second" in out
    assert "4 compared in 83 s; all: 5.0 MB" in out


def test_without_labels_there_is_no_top1_and_without_a_choice_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(replace(RESULT, reference=None, label_source="", recommended="", why="why not", command=""), capsys)
    assert not [line for line in out if "top-1" in line or "next:" in line or "PyTorch" in line]
    assert "recommended: none: why not" in out


def test_a_device_that_failed_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "ssh:pi failed: It is gone." in shown(replace(RESULT, device="ssh:pi", failed="It is gone."), capsys)


def test_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    render(RESULT, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["recommended"], found["command"]) == (NAME, FIRST.command)
    assert [one["outcome"] for one in found["candidates"]] == [WITHIN, WITHIN, FAILED, NOT_MADE]
