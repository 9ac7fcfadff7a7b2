# SPDX-License-Identifier: Apache-2.0
"""Joint projections as three products: `vitedge.export.onnx.passes.split_projections`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.export import tiny
from tests.export.quantized_programs import quantized
from vitedge.export import to_onnx
from vitedge.export.onnx.passes.split_projections import split_projections
from vitedge.recipe import ResolvedRecipe


@pytest.mark.parametrize(("name", "scheme"), [("vit", "int8"), ("swin", "int8"), ("mobilevit", "w8")])
def test_three_products_of_one_input_compute_the_same_bits_as_one(
    name: str, scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = quantized(name, scheme, "dynamic")
    recipe = ResolvedRecipe(precision=scheme, form="tensorrt", rest="fp32")
    to_onnx.lower(program, recipe, tmp_path / "apart.onnx")
    layout = [one for one in to_onnx.FOR_TENSORRT.passes if one is not split_projections]
    monkeypatch.setattr(to_onnx.FOR_TENSORRT, "passes", layout)
    to_onnx.lower(program, recipe, tmp_path / "joint.onnx")
    found = {}
    for kind in ("apart", "joint"):
        session, images = tiny.session(tmp_path / f"{kind}.onnx"), tiny.images(3).numpy()
        found[kind] = session.run(None, {"image": images})[0]
    assert np.array_equal(found["apart"], found["joint"])
    products = [node for node in onnx.load(tmp_path / "apart.onnx").graph.node if "attn.qkv/MatMul" in node.name]
    attentions = sum(node.op_type == "Softmax" for node in onnx.load(tmp_path / "apart.onnx").graph.node)
    assert len(products) == 3 * attentions
    nodes = onnx.load(tmp_path / "apart.onnx").graph.node
    assert not any(node.op_type == "Gather" and ".attn" in node.name for node in nodes)
