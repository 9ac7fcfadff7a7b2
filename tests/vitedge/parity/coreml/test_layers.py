# SPDX-License-Identifier: Apache-2.0
"""Tests of `layers`, and of `alignment`, `segments` and `values` below it."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from tests.export.coreml.foreign import convert
from tests.export.coreml.models import FAMILIES, captured
from tests.seeding import seeded
from vitedge.export.coreml.graph import to_coreml_graph
from vitedge.export.coreml.quiet import load_coremltools, quiet
from vitedge.export.to_coreml import lower
from vitedge.mlprogram.package import read_package
from vitedge.mlprogram.program import read_program
from vitedge.parity.coreml.alignment import Alignment, align
from vitedge.parity.coreml.layers import EXACT_DB, LayerComparison, compare_program
from vitedge.program.capture import capture
from vitedge.program.program import Program
from vitedge.recipe import ResolvedRecipe

RANDOM = np.random.default_rng(0)


def images(program: Program, count: int = 1) -> np.ndarray:
    shape = (count, *program.inputs[0].shape[1:])
    if program.inputs[0].dtype == "uint8":
        return RANDOM.integers(0, 256, shape, np.uint8)
    return RANDOM.standard_normal(shape, np.float32)


def exported(folder: Path, program: Program, *float32_modules: str, **recipe: Any) -> Path:
    path = folder / "model.mlpackage"
    lower(program, ResolvedRecipe(formats=("coreml",), **recipe), path, float32_modules)
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, Path]:
    """A ViT and its package in float32. Not to be changed."""
    program = captured()
    return program, exported(tmp_path_factory.mktemp("plain"), program)


def assert_holds(found: LayerComparison) -> None:
    assert found.first_departure == ""
    assert found.unmatched == ()
    assert found.unchecked == ()
    assert min(row.sqnr_db for row in found.layers) > EXACT_DB + 10


def aligned(path: Path, program: Program) -> Alignment:
    return align(read_program(read_package(path)), to_coreml_graph(program, probabilities=False))


@pytest.mark.parametrize("family", ["registers", "pit distilled", "beit", "hybrid"])
def test_what_was_converted_here_holds_layer_by_layer(tmp_path: Path, family: str) -> None:
    program = captured(family)
    assert_holds(compare_program(exported(tmp_path, program, precision="fp16"), program, images(program)))


@pytest.mark.parametrize("ours", [True, False])
def test_a_constant_that_several_layers_share_leads_to_none_of_them(tmp_path: Path, ours: bool) -> None:
    """Shifted windows of one size have one mask, which coremltools keeps once and calls after its first reader."""
    sizes: dict[str, Any] = {"img_size": 32, "patch_size": 4, "embed_dim": 8, "window_size": 4}
    module = seeded(SwinTransformer(**sizes, depths=(4,), num_heads=(2,), num_classes=5))
    program = capture(module, replace(captured("swin").spec, image_size=(32, 32)), ())
    path = exported(tmp_path, program) if ours else convert(module, 32, tmp_path / "theirs.mlpackage", half=True)
    assert_holds(compare_program(path, program, images(program)))


@pytest.mark.parametrize(
    ("family", "half", "traced"), [("deit", True, True), ("vit", True, False), ("pit", False, False)]
)
def test_what_others_converted_holds_layer_by_layer(tmp_path: Path, family: str, half: bool, traced: bool) -> None:
    program = captured(family)
    build, size, _ = FAMILIES[family]
    path = tmp_path / "theirs.mlpackage"
    front, target = ("trace", "iOS16") if traced else ("export", "iOS18")
    convert(seeded(build()), size, path, target, half=half, front=front)
    found = compare_program(path, program, images(program, 2))
    assert_holds(found)
    modules = layers_of(found)
    depth = "transformers.1.blocks.0" if family == "pit" else "blocks.1"
    assert {f"{depth}.{part}" for part in ("norm1", "attn.qkv", "attn", "attn.proj", "mlp.act", "mlp.fc2")} <= modules


def layers_of(found: LayerComparison) -> set[str]:
    """Names of the layers; PyTorch 2.11 gives the value of an activation to the idle dropout behind it."""
    return {row.output.replace(".mlp.drop1", ".mlp.act") for row in found.layers}


class Separate(nn.Module):
    """The same attention as others write it: queries, keys and values from matrices of their own."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.heads, self.dense = attention.num_heads, attention.proj
        parts = zip(attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3), strict=True)
        self.parts = nn.ModuleList()
        for weight, bias in parts:
            self.parts.append(nn.Linear(*reversed(weight.shape)))
            self.parts[-1].load_state_dict({"weight": weight, "bias": bias})

    def forward(self, tokens: torch.Tensor, **_: Any) -> torch.Tensor:
        query, key, value = (part(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.parts)
        weights = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(-1)
        return self.dense((weights @ value).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def test_another_implementation_holds_where_it_corresponds(tmp_path: Path) -> None:
    program = captured()
    model: Any = seeded(FAMILIES["vit"][0]())
    for block in model.blocks:
        block.attn = Separate(block.attn)
    found = compare_program(convert(model.eval(), 32, tmp_path / "theirs.mlpackage"), program, images(program))
    assert found.first_departure == ""
    assert found.unmatched == ("blocks.0.attn.qkv", "blocks.1.attn.qkv")
    assert {"blocks.0.attn", "blocks.1.attn.proj", "blocks.1.mlp.act"} <= layers_of(found)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_an_image_goes_in(tmp_path: Path, order: str) -> None:
    program = captured(dtype="uint8", order=order)
    assert_holds(
        compare_program(exported(tmp_path, program, input="uint8", precision="fp16"), program, images(program, 2))
    )


def test_several_images_at_once(tmp_path: Path) -> None:
    single = captured()
    program = capture(seeded(FAMILIES["vit"][0]()), single.spec, single.blocks, batch=2)
    assert_holds(compare_program(exported(tmp_path, program), program, images(program, 3)))


def test_float32_modules_are_not_rounded(tmp_path: Path) -> None:
    program = captured()
    path = exported(tmp_path, program, "blocks.0.attn", precision="fp16")
    assert_holds(compare_program(path, program, images(program)))
    halved = aligned(path, program).halved
    assert "blocks_0_attn_qkv_weight" not in halved
    assert "blocks_1_attn_qkv_weight" in halved


def test_layers_come_in_order_of_execution_and_under_names_of_their_own(plain: tuple[Program, Path]) -> None:
    program, path = plain
    names = [row.output for row in compare_program(path, program, images(program)).layers]
    assert len(set(names)) == len(names)
    order = ["patch_embed.proj", "(root) cat", "blocks.0.norm1", "blocks.0.attn.qkv", "blocks.0.attn transpose"]
    order += ["blocks.0.attn.proj", "blocks.0 add", "blocks.0.mlp.act", "blocks.0 add_1", "blocks.1.norm1", "head"]
    assert [name for name in names if name in order] == order


def test_another_model_departs_at_its_first_layer(plain: tuple[Program, Path]) -> None:
    program, path = plain
    other = capture(seeded(FAMILIES["vit"][0](), seed=1), program.spec, program.blocks)
    found = compare_program(path, other, images(program))
    assert found.first_departure == "patch_embed.proj"
    exact = {row.output for row in found.layers if math.isinf(row.sqnr_db)}
    assert {"blocks.0.mlp.act", "blocks.0 add"} <= exact  # no weights there: checked on the reference's values


def compressed(path: Path) -> None:
    import coremltools.optimize.coreml as optimize  # noqa: PLC0415

    ct = load_coremltools()
    with quiet():
        setting = optimize.OpLinearQuantizerConfig(weight_threshold=512)
        model = ct.models.MLModel(str(path), skip_model_load=True)
        optimize.linear_quantize_weights(model, optimize.OptimizationConfig(global_config=setting)).save(str(path))


def test_compressed_layers_are_checked_with_the_tolerance_that_is_given(
    plain: tuple[Program, Path], tmp_path: Path
) -> None:
    program, sound = plain
    path = Path(shutil.copytree(sound, tmp_path / sound.name))
    compressed(path)
    found = compare_program(path, program, images(program))
    assert found.first_departure == ""
    assert "blocks.0.mlp.fc1" in found.unchecked
    assert "blocks.0.mlp.act" not in found.unchecked
    assert not compare_program(path, program, images(program), compressed_db=25.0).first_departure
    assert compare_program(path, program, images(program), compressed_db=80.0).first_departure == "patch_embed.proj"
