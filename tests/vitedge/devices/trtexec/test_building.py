# SPDX-License-Identifier: Apache-2.0
"""`building` and `folder`: engines built by a stand-in for trtexec, with their records."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from tests.vitedge.devices.trtexec.boards import DYNAMIC, SHAPES, Board, every_version, posix, request_of
from vitedge.devices.trtexec.building import build
from vitedge.errors import BadRecipe, CheckFailed, DeviceFailed, MissingBackend, UnreadableArtifact
from vitedge.export.tensorrt.summary import shortfall, summary

pytestmark = posix
AS_ASKED = "1 of 1 quantized products in int8, 1 of 1 products in fp16"


@every_version
def test_an_engine_is_built_where_it_runs(version: str, tmp_path: Path) -> None:
    board, phases = Board(tmp_path / "board", version), []
    request = replace(request_of(tmp_path / "here"), progress=phases.append)
    engine = build(board, request, board.work)
    record = engine.record
    assert Path(engine.path).is_file()
    assert engine.path.startswith(board.work)
    assert record.builder == "tensorrt"
    assert record.version.startswith(version)
    assert record.version.count(".") == (2 if version.startswith("8") else 3)  # the head of older engines tells none
    assert record.targets == (("SM53",) if version in ("8.2", "8.5") else ("SM87",))
    assert record.options["strongly_typed"] == (not version.startswith("8"))
    assert record.onnx_sha256 == hashlib.sha256(request.onnx.read_bytes()).hexdigest()
    assert record.layers is not None
    nodes = [layer.nodes for layer in record.layers if layer.nodes]
    assert nodes == [("first.proj/MatMul",), ("second.proj/MatMul",)]
    assert summary(record) == AS_ASKED
    assert not shortfall(record, 1.0, half=True)
    assert not engine.warnings
    assert phases[0] == "sending model.onnx to ssh:board"
    assert phases[1].startswith(f"building with trtexec {version}.")
    assert not request.out.exists()  # it stays there


@pytest.mark.parametrize("version", ["8.2", "11.1"])
def test_the_kernels_of_dynamic_shapes_are_told_in_the_usual_ones(version: str, tmp_path: Path) -> None:
    board = Board(tmp_path / "board", version)
    engine = build(board, request_of(tmp_path / "here", *DYNAMIC, shapes=SHAPES), board.work)
    assert engine.record.shapes == SHAPES
    (typed,) = board.typed("--saveEngine")
    assert "--minShapes=x:1x16x32 --optShapes=x:4x16x32 --maxShapes=x:8x16x32" in typed
    if version == "8.2":  # it lists them before it has a context, so their types are not known
        assert engine.record.layers is None
        assert not engine.record.products
    else:
        assert summary(engine.record) == AS_ASKED


def test_a_build_that_leaves_out_precisions_falls_short(tmp_path: Path) -> None:
    """The stand-in computes in float32 what no flag allows, as weak typing does."""
    board = Board(tmp_path / "board", "10.3")
    (board.bin / "trtexec").write_text(
        (board.bin / "trtexec").read_text().replace('"$@"', '$(echo "$@" | sed s/--int8//)')
    )
    request = request_of(tmp_path / "here", options={"strongly_typed": False})
    record = build(board, request, board.work).record
    assert summary(record) == "0 of 1 quantized products in int8, 1 of 1 products in fp16, 1 product in float32"
    assert "0 of 1 quantized products run in int8 (not first.proj)" in shortfall(record, 1.0, half=True)


def test_a_second_build_sends_nothing_but_what_the_first_has_timed(tmp_path: Path) -> None:
    board = Board(tmp_path / "board", "8.6")
    request = request_of(tmp_path / "here", options={"timing_cache": str(tmp_path / "timing.cache")})
    first = build(board, request, board.work)
    (cache,) = tmp_path.glob("timing*")
    assert cache.name == "timing-SM87-orin-8.6.1.cache"
    assert build(board, request, board.work).path == first.path
    assert board.sent == ["model.onnx", cache.name]
    assert cache.read_text(encoding="utf-8") == 2 * "timed by 8.6\n"


def test_a_file_that_is_there_is_not_sent(tmp_path: Path) -> None:
    board, request = Board(tmp_path / "board", "11.1"), request_of(tmp_path / "here")
    engine = build(board, request, board.work, onnx_there=str(request.onnx))
    assert not board.sent
    assert Path(engine.path).is_file()
    assert summary(engine.record) == AS_ASKED


def test_warnings_of_the_build_come_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_WEIGHTS", "1")
    board = Board(tmp_path / "board", "8.6")
    engine = build(board, request_of(tmp_path / "here"), board.work)
    assert engine.warnings == ("[TRT] Weights [name=w] had the following issues when converted to FP16:",)


@pytest.mark.parametrize(
    ("fault", "error", "sentence"),
    [
        ("parser", CheckFailed, "failed while building model.engine from model.onnx: ModelImporter.cpp:720: While"),
        ("builder", CheckFailed, "model.onnx: Error Code 10: Could not find any implementation for node a"),
        ("killed", DeviceFailed, "was killed by SIGKILL, perhaps for want of memory, while building model.engine"),
        ("silent", DeviceFailed, "ended with exit code 0 while building model.engine"),
        ("no-gpu", DeviceFailed, "finds no GPU: Cannot find any available devices"),
        ("library", MissingBackend, "does not start"),
    ],
)
def test_a_build_that_fails_says_why(
    fault: str, error: type[Exception], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_FAULT", fault)
    board = Board(tmp_path / "board", "10.13")
    with pytest.raises(error) as caught:
        build(board, request_of(tmp_path / "here"), board.work)
    assert sentence in str(caught.value)


def test_what_does_not_fit_is_refused_before_a_build(tmp_path: Path) -> None:
    board = Board(tmp_path / "board", "8.6")
    request = request_of(tmp_path / "here")
    with pytest.raises(MissingBackend, match=r"on ssh:board Orin \(SM87\), and not for SM120"):
        build(board, replace(request, targets=("SM120",)), board.work)
    with pytest.raises(BadRecipe, match="shapes"):
        build(board, replace(request, shapes=SHAPES), board.work)
    with pytest.raises(BadRecipe, match="no option"):
        build(board, replace(request, options={"speed": 1}), board.work)
    request.onnx.write_bytes(b"nothing")
    with pytest.raises(UnreadableArtifact):
        build(board, request, board.work)
    assert not board.sent
