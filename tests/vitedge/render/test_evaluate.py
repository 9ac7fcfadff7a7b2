# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from vitedge.accuracy.metrics import mcnemar, proportion
from vitedge.accuracy.records import Evaluation, PairedAccuracy, SubjectAccuracy
from vitedge.render import screen
from vitedge.render.evaluate import render

REFERENCE = SubjectAccuracy(
    "a-checkpoint-of-a-long-name.safetensors (reference)",
    "some/a-checkpoint-of-a-long-name.safetensors",
    "torch",
    proportion(41_000, 50_000),
    proportion(50_000, 50_000),
    None,
)
ARTIFACT = SubjectAccuracy(
    "a bundle/model-of-some-length.mlpackage",
    "a bundle/model-of-some-length.mlpackage",
    "mlprogram",
    proportion(40_990, 50_000),
    proportion(50_000, 50_000),
    proportion(50_000, 50_000),
    not_finite=3,
    note="computed op by op",
)
LOST = tuple(f"n0{index}/image.JPEG" for index in range(12))
PAIR = PairedAccuracy(ARTIFACT.subject, REFERENCE.subject, 12, 2, 0.02, mcnemar(12, 2), LOST, LOST[:2])
RESULT = Evaluation(
    "imagenet, all 50000 images",
    50_000,
    "0" * 64,
    1000,
    1000,
    (REFERENCE, ARTIFACT),
    (PAIR,),
    passed=False,
    reason="it loses 0.02 points",
    max_drop=0.01,
    reference="some/a-checkpoint-of-a-long-name.safetensors",
    skipped={f"{index}.png": "damaged" for index in range(7)},
    notes=("the class folders were counted",),
    seconds=12.3,
)


@pytest.fixture(autouse=True)
def _narrow() -> Iterator[None]:
    before = screen._OUT.width
    screen._OUT.width = 80
    yield
    screen._OUT.width = before


def shown(result: Evaluation, capsys: pytest.CaptureFixture[str]) -> str:
    render(result, options=["--set", "heads=3"], as_json=False)
    text = capsys.readouterr().out
    assert [line for line in text.splitlines() if len(line) > 80 and ": " not in line and "interval" not in line] == []
    return text


def test_the_table_fits_the_screen_and_says_all(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(RESULT, capsys)
    for word in (
        "82.00%",
        "81.7-82.3",
        "100.00%",
        "agreement",
        "12 images lost, 2 gained (-0.02 points; exact McNemar p = 0.013)",
        "n04/image.JPEG and 7 more",
        "7 images could not be read and were skipped, 2 of them not named here",
        "scores of 3 images hold NaN",
        "note: the class folders",
        "mlprogram: computed op by op",
        "FAILED: it loses 0.02 points",
        "--against some/a-checkpoint-of-a-long-name.safetensors --set heads=3 --layers",
    ):
        assert word in text


@pytest.mark.parametrize(
    ("result", "command"),
    [
        (
            replace(RESULT, subjects=(REFERENCE,), comparisons=(), reference=None, max_drop=None),
            "vitedge export some/a-checkpoint-of-a-long-name.safetensors --set heads=3 -o BUNDLE",
        ),
        (
            replace(RESULT, subjects=(REFERENCE,), comparisons=(), reference=None, guesses=("--set", "pool=class")),
            "vitedge export some/a-checkpoint-of-a-long-name.safetensors --set heads=3 --set pool=class -o BUNDLE",
        ),
        (
            replace(RESULT, subjects=(replace(ARTIFACT, runtime="onnxruntime"),), comparisons=(), reference=None),
            "vitedge bench 'a bundle/model-of-some-length.mlpackage'",
        ),
        (
            replace(RESULT, passed=True, reason=""),
            "vitedge validate 'a bundle/model-of-some-length.mlpackage' --against",
        ),
        (
            # What a checkpoint lost, `validate` does not compare.
            replace(RESULT, subjects=(REFERENCE, replace(REFERENCE, source="other.pth"))),
            "vitedge export other.pth --set heads=3 -o BUNDLE",
        ),
    ],
)
def test_it_ends_with_the_next_command(result: Evaluation, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(result, capsys)
    assert text.splitlines()[-1].startswith(f"next: {command}")
    assert ("agreement" in text) == (result.reference is not None)


def test_nothing_lost_is_a_plain_zero(capsys: pytest.CaptureFixture[str]) -> None:
    same = replace(PAIR, lost=0, gained=0, drop_points=0.0, p_value=1.0, lost_images=())
    text = shown(replace(RESULT, comparisons=(same,), passed=True, reason=""), capsys)
    assert "0 images lost, 0 gained (+0.00 points" in text
    assert "within 0.01 points" in text


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    render(RESULT, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["comparisons"][0]["lost_images"][0] == "n00/image.JPEG"
    assert found["subjects"][0]["agreement"] is None
    assert found["skipped"]["6.png"] == "damaged"


def test_a_bundle_that_does_not_run_here_is_measured_on_a_mac(
    demo_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = replace(ARTIFACT, source=str(demo_bundle / "model.mlpackage"))
    text = shown(replace(RESULT, subjects=(REFERENCE, package), passed=True, reason=""), capsys)
    assert text.splitlines()[-1] == f"next: vitedge kit write {demo_bundle} {demo_bundle}-kit"
