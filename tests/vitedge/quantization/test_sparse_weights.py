# SPDX-License-Identifier: Apache-2.0
"""Sparse weights in quantized programs and in files made of them, which `vitedge.export.tensorrt.sparsity` reads."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from tests.export import tiny
from tests.vitedge.quantization.captures import captured_once
from tests.vitedge.quantization.weights.layers import rows, weight
from vitedge.calibration.moments import InputStatistics
from vitedge.errors import BadRecipe
from vitedge.export.formats import PROCESSOR, TENSORRT, QuantizedForm
from vitedge.export.onnx.artifact import check
from vitedge.export.onnx.skeleton import read_skeleton
from vitedge.export.tensorrt.sparsity import count_sparse
from vitedge.export.to_onnx import lower
from vitedge.images.stream import open_images
from vitedge.models.reference import Reference
from vitedge.program.sparsity import is_two_of_four
from vitedge.pruning.draft import Batches, Draft
from vitedge.pruning.recipe import PruningRecipe
from vitedge.pruning.sparse import sparsify
from vitedge.quantization.run import Quantization, quantize
from vitedge.quantization.weights import adaround, gptq, nearest
from vitedge.quantization.weights.parameters import WeightSettings
from vitedge.recipe import QuantizationRecipe, ResolvedRecipe


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with captured_once():
        yield


@cache
def sparse_vit() -> Reference:
    dense = Reference(tiny.model("vit"), tiny.spec("vit"))
    pixels = np.random.default_rng(3).integers(0, 256, (8, 3, tiny.SIZE, tiny.SIZE), dtype=np.uint8)
    begun = Draft.of(dense, Batches(pixels, dense.spec.preprocessing))
    sparsify(begun, PruningRecipe(sparsity="2:4"))
    return Reference(begun.module, begun.spec)


def run(form: QuantizedForm, scheme: str, **settings: object) -> Quantization:
    reference = sparse_vit()
    images = open_images("synthetic", reference.spec, 8)
    recipe = QuantizationRecipe(scheme, images="synthetic", **settings)  # type: ignore[arg-type]
    return quantize(Quantization(reference, recipe, form, form.activations, images))


@pytest.mark.parametrize(
    ("form", "scheme", "settings", "layers"),
    [
        (TENSORRT, "int8", {}, (12, 14)),  # queries, keys and values apart
        (PROCESSOR, "w4", {"rounding": "gptq"}, (8, 10)),
    ],
)
def test_the_pattern_is_kept_and_found_in_the_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: QuantizedForm,
    scheme: str,
    settings: dict[str, object],
    layers: tuple[int, int],
) -> None:
    monkeypatch.setenv("VITEDGE_CACHE", str(tmp_path / "cache"))
    job = run(form, scheme, **settings)
    opset = 17 if form is TENSORRT else None
    out = tmp_path / "model.onnx"
    artifact = lower(job.program(1), ResolvedRecipe(batch=1, opset=opset), out)
    report = check(out, artifact)
    assert report.passed, report
    assert report.checks[-1] == f"2:4 sparse in {layers[0]} of {layers[1]} weights"


def test_a_dense_file_says_nothing_of_it_and_weights_beside_the_file_are_read(tmp_path: Path) -> None:
    dense, sparse = tmp_path / "dense.onnx", tmp_path / "sparse.onnx"
    artifact = lower(tiny.program("vit")[1], ResolvedRecipe(batch=1), dense)
    assert not [phrase for phrase in check(dense, artifact).checks if "2:4" in phrase]
    model = _product(np.tile(np.float32([0, 1, 0, 2]), (512, 16)).T)
    onnx.save(model, sparse, save_as_external_data=True, location="sparse.bin", size_threshold=100)
    assert (tmp_path / "sparse.bin").is_file()
    skeleton = read_skeleton(sparse)
    assert count_sparse(skeleton.model, skeleton.numbers) == (1, 1)


def _product(stored: np.ndarray) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "one",
        [value("x", 1, [2, stored.shape[0]])],
        [value("y", 1, [2, stored.shape[1]])],
        [numpy_helper.from_array(np.ascontiguousarray(stored), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_an_integer_that_stands_for_zero_counts_as_zero() -> None:
    stored = np.tile(np.uint8([7, 9, 7, 3]), (6, 2))
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["d"]),
        helper.make_node("Gemm", ["x", "d"], ["y"], transB=1),
    ]
    model = helper.make_model(helper.make_graph(nodes, "one", [], []))
    numbers = {"w": stored, "zero": np.uint8(7).reshape(())}
    assert count_sparse(model, numbers.get) == (1, 1)
    assert count_sparse(model, {**numbers, "zero": np.uint8(0).reshape(())}.get) == (0, 1)


@pytest.mark.parametrize("method", [nearest, gptq, adaround])
@pytest.mark.parametrize("symmetric", [True, False])
def test_every_rounding_keeps_the_zeros_and_the_others_make_up_for_it(method: object, *, symmetric: bool) -> None:
    inputs, values = InputStatistics.of(rows()), weight()
    values = torch.where(torch.arange(64) % 4 < 2, values, torch.zeros_like(values))
    settings = WeightSettings("int4", 16, symmetric)
    rounded = method.round_weight(values, settings, inputs)  # type: ignore[attr-defined]
    assert not rounded.weight()[values == 0].any()
    assert is_two_of_four(rounded.weight().numpy())
    plain = nearest.round_weight(values, settings, inputs)
    assert inputs.errors(values, rounded.weight()).sum() <= inputs.errors(values, plain.weight()).sum()
    assert method is nearest or rounded.fallbacks < 12


def test_a_rotation_of_sparse_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITEDGE_CACHE", str(tmp_path))
    with pytest.raises(BadRecipe, match=r"zeros of 8 sparse weights \(blocks.0.attn.qkv, .*leave rotation out"):
        run(PROCESSOR, "int8", rotation=True)
