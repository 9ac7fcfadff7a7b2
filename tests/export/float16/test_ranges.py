# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.export import tiny
from vitedge.errors import CheckFailed
from vitedge.export.float16.ranges import find_overflowing, measure_ranges
from vitedge.export.to_coreml import lower as lower_coreml
from vitedge.export.to_onnx import lower
from vitedge.mlprogram.overflow import check_overflow
from vitedge.program.capture import capture
from vitedge.program.program import Program
from vitedge.recipe import ResolvedRecipe


def with_outliers(scale: float) -> tuple[nn.Module, Program]:
    """A ViT whose residual stream grows by the scale in its first block."""
    model = tiny.model("vit")
    with torch.no_grad():
        model.blocks[0].mlp.fc2.weight *= scale
        model.blocks[0].mlp.fc2.bias *= scale
    return model, capture(model, tiny.spec("vit"), tiny.BLOCKS["vit"])


def half(program: Program, out: Path, float32_modules: tuple[str, ...]) -> np.ndarray:
    lower(program, ResolvedRecipe(precision="fp16", form="tensorrt"), out, float32_modules)  # all of it is half
    session = tiny.session(out)
    return np.concatenate([session.run(None, {"image": image.numpy()})[0] for image in tiny.images().split(1)])


def test_outliers_make_half_precision_fail_and_islands_mend_it(tmp_path: Path) -> None:
    model, program = with_outliers(1e5)
    with torch.no_grad():
        reference = model(tiny.images()).numpy()
    assert not np.isfinite(half(program, tmp_path / "naive.onnx", ())).all()
    float32_modules = find_overflowing(program, tiny.images())
    assert {"blocks.0", "blocks.0.mlp.fc2", "blocks.1.norm1"} <= set(float32_modules)
    assert {"blocks.0.attn", "blocks.0.mlp.fc1", "blocks.1.attn", "head"}.isdisjoint(float32_modules)
    assert tiny.centred_sqnr(half(program, tmp_path / "mended.onnx", float32_modules), reference) >= 40


def test_squares_inside_a_layer_norm_count(tmp_path: Path) -> None:
    _, program = with_outliers(1e3)
    ranges = measure_ranges(program, tiny.images())
    assert ranges["blocks.0"] < 65504 < ranges["blocks.1.norm1"]
    assert "blocks.1.norm1" in find_overflowing(program, tiny.images())


@pytest.mark.parametrize("scale", [1e3, 1e5])
def test_the_package_is_judged_as_the_captured_program_is(scale: float, tmp_path: Path) -> None:
    _, program = with_outliers(scale)
    recipe = ResolvedRecipe(precision="fp16")
    lower_coreml(program, recipe, tmp_path / "naive.mlpackage", ())
    feeds = [{"image": image.numpy()} for image in tiny.images().split(1)]
    naive = check_overflow(tmp_path / "naive.mlpackage", feeds)
    float32_modules = find_overflowing(program, tiny.images())
    assert not naive.passed
    assert set(naive.keep_fp32) == {
        module for module in float32_modules if ".drop" not in module
    }  # a dropout is not lowered
    lower_coreml(program, recipe, tmp_path / "mended.mlpackage", float32_modules)
    mended = check_overflow(tmp_path / "mended.mlpackage", feeds)
    assert (mended.passed, mended.keep_fp32) == (True, ())


@pytest.mark.parametrize(
    ("name", "batch"),
    [*((name, "dynamic") for name in ("vit", "deit", "pit", "swin", "beit", "mobilevit")), ("vit", 4)],
)
def test_a_tame_model_has_no_islands(name: str, batch: int | str) -> None:
    program = tiny.program(name, batch)[1]
    assert find_overflowing(program, tiny.images().numpy()) == ()


def test_measuring_leaves_the_weights_alone() -> None:
    module, program = tiny.program("mobilevit")
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    measure_ranges(program, tiny.images(2))
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("factor", [1e6, 1e-6])
def test_weights_that_half_precision_cannot_hold_are_islands(factor: float) -> None:
    model = tiny.model("vit")
    with torch.no_grad():
        model.blocks[1].attn.proj.weight *= factor
    program = capture(model, tiny.spec("vit"), tiny.BLOCKS["vit"])
    assert "blocks.1.attn.proj" in find_overflowing(program, tiny.images())


def test_a_weight_beyond_half_precision_stays_single_even_when_nobody_asked(tmp_path: Path) -> None:
    model = tiny.model("vit")
    with torch.no_grad():
        model.head.weight[0, 0] = 1e5
    program = capture(model, tiny.spec("vit"), tiny.BLOCKS["vit"])
    artifact = lower(program, ResolvedRecipe(precision="fp16"), tmp_path / "model.onnx")
    assert any("head" in note and "float16" in note for note in artifact.notes)


def test_overflow_at_a_dynamic_batch_fails_the_check(tmp_path: Path) -> None:
    model, _ = with_outliers(1e5)
    program = capture(model, tiny.spec("vit"), tiny.BLOCKS["vit"], batch="dynamic")
    with pytest.raises(CheckFailed, match="differs"):
        lower(program, ResolvedRecipe(precision="fp16", batch="dynamic", form="tensorrt"), tmp_path / "model.onnx")
