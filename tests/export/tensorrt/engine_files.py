# SPDX-License-Identifier: Apache-2.0
"""ONNX files of tiny models in the forms that engines are built from, and in others."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import pytest

from tests.export import tiny
from tests.export.quantized_programs import quantized
from vitedge.export.onnx.passes.quantized import FOR_TENSORRT
from vitedge.export.onnx.passes.split_projections import split_projections
from vitedge.export.tensorrt.building import BUILDERS, build
from vitedge.export.tensorrt.records import EngineRecord
from vitedge.export.tensorrt.request import EngineRequest
from vitedge.export.to_onnx import lower
from vitedge.recipe import FloatType, ResolvedRecipe
from vitedge.registry import missing

needs_rtx = pytest.mark.skipif(
    bool(missing(BUILDERS, "tensorrt-rtx")),
    reason=f"needs TensorRT for RTX: {BUILDERS['tensorrt-rtx'].install}",
)
"""Skips a test that builds where the builder is not installed."""
BATCHES = {"image": ((1, 3, 32, 32), (2, 3, 32, 32), (4, 3, 32, 32))}


@cache
def float16(name: str, batch: int | str = 1) -> bytes:
    """A tiny model in half precision."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        lower(tiny.program(name, batch)[1], ResolvedRecipe(opset=18, precision="fp16", batch=batch), path)
        return path.read_bytes()


@cache
def int8(name: str, *, rest: str = "fp32", apart: bool = True) -> bytes:
    """A tiny model in int8.

    Args:
        name: one of `tiny.NAMES`.
        rest: precision of what is not quantized, ``fp32`` or ``fp16``.
        apart: whether queries, keys and values are three products, as an export writes them, or one.
    """
    layout = [one for one in FOR_TENSORRT.passes if apart or one is not split_projections]
    recipe = ResolvedRecipe(opset=19, precision="int8", form="tensorrt", rest=FloatType(rest))
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setattr(FOR_TENSORRT, "passes", layout)
        lower(quantized(name, "int8"), recipe, Path(folder) / "model.onnx")
        return (Path(folder) / "model.onnx").read_bytes()


@cache
def weights_int8(name: str) -> bytes:
    """A tiny model in half precision whose products dequantize their weights."""
    recipe = ResolvedRecipe(precision="w8", form="tensorrt", rest=FloatType.FP16)
    with tempfile.TemporaryDirectory() as folder:
        lower(quantized(name, "w8"), recipe, Path(folder) / "model.onnx")
        return (Path(folder) / "model.onnx").read_bytes()


def built(folder: Path, content: bytes, *targets: str, dynamic: bool = False) -> EngineRecord:
    """The record of an engine of a file; the engine is ``model.engine`` in the folder, the file ``model.onnx``."""
    (folder / "model.onnx").write_bytes(content)
    shapes = BATCHES if dynamic else {}
    return build(EngineRequest(folder / "model.onnx", folder / "model.engine", targets or ("SM86",), shapes))
