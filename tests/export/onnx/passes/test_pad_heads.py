# SPDX-License-Identifier: Apache-2.0
"""Heads widened by channels of zeros: `vitedge.export.onnx.passes.pad_heads`, and the sizes of `heads`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from tests.export import tiny
from tests.export.quantized_programs import quantized
from vitedge.errors import BadRecipe
from vitedge.export.onnx.passes import pad_heads
from vitedge.export.tensorrt import heads
from vitedge.export.tensorrt.attention import attentions_of, head_width
from vitedge.export.tensorrt.graph import read_graph
from vitedge.export.tensorrt.heads import fuses, padded_width
from vitedge.export.to_onnx import lower
from vitedge.program.program import Program
from vitedge.recipe import ExportRecipe, ResolvedRecipe
from vitedge.verbs.resolve import resolve
from vitedge.verbs.targets import targets

FORM = "tensorrt"
SAME_SUMS = 1e-6
"""Relative error that another order of summation makes."""


def _as_written(path: Path) -> onnxruntime.InferenceSession:
    """Of dequantized weights ONNX Runtime's own optimizations make products of rounded activations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _program(name: str, scheme: str, batch: int | str) -> Program:
    return quantized(name, scheme, batch) if scheme else tiny.program(name, batch)[1]


@pytest.mark.parametrize(
    ("name", "scheme", "batch"),
    [
        ("vit", "", 1),
        ("vit", "int8", "dynamic"),
        ("pit", "w8", 1),
        ("mobilevit", "", "dynamic"),
        ("mobilevit", "int8", 1),
        ("swin", "", 1),
    ],
)
def test_wider_heads_compute_the_same_numbers(
    name: str, scheme: str, batch: int | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "_HALF", (24, 256))  # the tiny models have heads of 8 to 16 channels
    program = _program(name, scheme, batch)
    recipe = ResolvedRecipe(precision=scheme or "fp32", form=FORM, rest="fp32" if scheme else None)
    lower(program, recipe, tmp_path / "plain.onnx")
    artifact = lower(program, replace(recipe, pad_heads=True), tmp_path / "padded.onnx")
    found = {}
    widths = {}
    for kind in ("plain", "padded"):
        images = tiny.images(3 if batch == "dynamic" else 1).numpy()
        found[kind] = np.asarray(_as_written(tmp_path / f"{kind}.onnx").run(None, {"image": images})[0])
        graph = read_graph(tmp_path / f"{kind}.onnx")
        widths[kind] = [head_width(graph, attention) for attention in attentions_of(graph)]
    assert tiny.relative_error(found["padded"], found["plain"]) <= SAME_SUMS
    assert not any(map(fuses, widths["plain"])), widths
    assert set(widths["padded"]) == {24}
    assert any("widened by channels of zeros" in note for note in artifact.notes)


def test_what_is_written_in_another_form_is_counted_and_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pad_heads, "_MOVED", ("Transpose",))  # as if the parts of a projection were taken otherwise
    _, program = tiny.program("mobilevit")
    artifact = lower(program, ResolvedRecipe(form=FORM, pad_heads=True), tmp_path / "padded.onnx")
    assert artifact.notes == ("1 attentions are written in a form whose heads are not widened",)


def test_the_sizes_are_those_of_the_guide() -> None:
    assert [width for width in (8, 16, 20, 24, 64, 250, 256, 264) if fuses(width)] == [16, 24, 64, 256]
    assert [padded_width(width) for width in (3, 16, 20, 36, 60, 300)] == [16, 16, 24, 40, 64, 300]
    assert [padded_width(width, integers=True) for width in (16, 36, 48, 72)] == [16, 64, 64, 72]


def test_only_the_file_for_tensorrt_is_padded_and_without_one_it_is_refused() -> None:
    recipe = resolve(ExportRecipe(formats=("onnx",), profiles=("cpu-x86", "rtx"), precision="fp16", pad_heads=True), "")
    assert [target.recipe.pad_heads for target in targets(recipe)] == [False, True]
    with pytest.raises(BadRecipe, match="--pad-heads is for TensorRT"):
        resolve(ExportRecipe(formats=("onnx",), pad_heads=True), "m.pth")
