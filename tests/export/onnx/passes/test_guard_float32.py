# SPDX-License-Identifier: Apache-2.0
"""Products that stay in float32 in TensorRT: `vitedge.export.onnx.passes.guard_float32`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.export import tiny
from tests.export.tensorrt.engine_files import built, needs_rtx
from vitedge.export.tensorrt.summary import narrowed_products
from vitedge.export.to_onnx import lower
from vitedge.recipe import ResolvedRecipe

KEPT = ("stages.1.1.conv_proj.conv", "stages.1.1.transformer.0.attn.qkv", "stages.1.1.conv_1x1")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file in half precision with three modules in float32, for processors and for TensorRT."""
    folder = tmp_path_factory.mktemp("guarded")
    for form in ("processor", "tensorrt"):
        recipe = ResolvedRecipe(precision="fp16", form=form)
        lower(tiny.program("mobilevit")[1], recipe, folder / f"{form}.onnx", KEPT)
    return {form: folder / f"{form}.onnx" for form in ("processor", "tensorrt")}


def test_the_file_computes_the_same(files: dict[str, Path]) -> None:
    found = [tiny.session(path).run(None, {"image": tiny.images(1).numpy()})[0] for path in files.values()]
    np.testing.assert_allclose(*found, rtol=0, atol=2e-3 * np.abs(found[0]).max())
    kinds = [[node.op_type for node in onnx.load(path).graph.node] for path in files.values()]
    assert (kinds[0].count("Max"), kinds[1].count("Max")) == (0, 2)


@needs_rtx
def test_the_compiler_leaves_the_products_in_float32(files: dict[str, Path], tmp_path: Path) -> None:
    narrowed = {
        form: {product.module for product in narrowed_products(built(tmp_path, path.read_bytes()))}
        for form, path in files.items()
    }
    assert narrowed["processor"]
    assert not narrowed["tensorrt"]
