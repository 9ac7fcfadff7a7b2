# SPDX-License-Identifier: Apache-2.0
"""Outputs of a stand-in's engine, which ONNX Runtime computes, beside those of ONNX Runtime here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from tests.vitedge.devices.trtexec.boards import DYNAMIC, Board, engine_of, every_version, posix, program_of
from vitedge.devices.trtexec.outputs import outputs_of
from vitedge.errors import BadRecipe, DeviceFailed

pytestmark = posix


def batch_of(count: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(count).standard_normal((count, 16, 32)).astype(np.float16)


@every_version
def test_outputs_come_home_by_name(version: str, tmp_path: Path) -> None:
    board = Board(tmp_path / "board", version)
    engine = engine_of(version, tmp_path / "here", *DYNAMIC, sizes="x:4x16x32")
    feeds = {"x": batch_of(3)}
    found = outputs_of(program_of(version, board), engine, feeds, f"{board.work}/parity", {"y": "float16"})
    (expected,) = onnxruntime.InferenceSession(
        tmp_path / "here" / "model.onnx", providers=["CPUExecutionProvider"]
    ).run(None, feeds)
    assert list(found) == ["y"]
    np.testing.assert_array_equal(found["y"], expected)  # six digits tell a float16 whole
    (typed,) = board.typed("--loadInputs")
    assert ("--includeDataTransfers" in typed) == (version == "11.1")


@pytest.mark.parametrize("version", ["8.2", "8.6"])
def test_a_batch_that_the_engine_does_not_take_is_refused(version: str, tmp_path: Path) -> None:
    """8.2 reads a file of another size without a word; later versions refuse it themselves."""
    board = Board(tmp_path / "board", version)
    engine = engine_of(version, tmp_path / "here")
    with pytest.raises(
        (BadRecipe, DeviceFailed), match=r"takes the inputs \{'x': \(1, 16, 32\)\}|Unexpected file size"
    ):
        outputs_of(program_of(version, board), engine, {"x": batch_of(2)}, board.work)


def test_a_file_cut_short_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(tmp_path / "board", "10.3")
    engine = engine_of("10.3", tmp_path / "here")
    monkeypatch.setenv("STAND_IN_FAULT", "cut")
    with pytest.raises(DeviceFailed, match="empty or cut short"):
        outputs_of(program_of("10.3", board), engine, {"x": batch_of(1)}, board.work)
