# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.export import tiny
from tests.export.coreml import models as coreml_models
from tests.vitedge.mlprogram.mil import program as mil
from vitedge.errors import UnreadableArtifact
from vitedge.export import to_coreml
from vitedge.export.coreml.artifact import describe
from vitedge.export.coreml.convert import origin
from vitedge.mlprogram.modules import (
    BLOCKS,
    MODULES,
    blocks_of,
    identifier,
    module_of_weight,
    modules_of,
    readers,
)
from vitedge.mlprogram.package import read_package
from vitedge.mlprogram.program import MLProgram, read_program
from vitedge.recipe import ResolvedRecipe

X = {"x": np.ones((2, 3), np.float32)}


def lowered(
    family: str, recipe: ResolvedRecipe, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[MLProgram, Any]:
    """The package as it is read back, and what coremltools knew of every value before it forgot."""
    known: dict[str, str] = {}

    def spy(program: Any, graph: Any, nodes: Any) -> Any:
        for operation in program.functions["main"].operations:
            for value in operation.outputs:
                if operation.op_type not in ("const", "cast"):
                    known[value.name] = graph.modules.get(origin(operation), "")
        return values_of(program, graph, nodes)

    values_of = to_coreml.values_of
    monkeypatch.setattr(to_coreml, "values_of", spy)
    captured = tiny.program(family)[1] if family in tiny.BLOCKS else coreml_models.captured(family)
    artifact = to_coreml.lower(captured, recipe, folder / "model.mlpackage", ())
    return read_program(read_package(folder / "model.mlpackage")), (known, artifact)


@pytest.mark.parametrize(
    ("family", "precision", "target"),
    [
        ("vit", "fp16", "iOS17"),  # attention is taken apart
        ("mobilevitv2", "fp16", "iOS16"),  # group normalization is
        ("pit distilled", "fp32", "iOS18"),  # an output that no module returns
        ("swin", "fp32", "iOS17"),  # windows are merged and rolled
    ],
)
def test_every_value_of_ours_is_traced_to_the_module_that_it_was_made_of(
    family: str, precision: str, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = ResolvedRecipe(precision=precision, coreml_target=target)
    program, (known, artifact) = lowered(family, recipe, tmp_path, monkeypatch)
    found = modules_of(program)
    values = [
        output.name
        for operation in program.operations
        if not operation.is_constant and operation.kind not in ("cast", "classify")
        for output in operation.outputs
    ]
    assert {name: found[name] for name in values} == {name: known[name] for name in values}
    weights = {name: found[name] for name, _ in program.constants() if "weight" in name}
    assert weights
    assert all(name.startswith(identifier(module)) for name, module in weights.items() if module)
    assert blocks_of(program.package) == artifact.blocks
    assert describe(tmp_path / "model.mlpackage").blocks == artifact.blocks
    assert artifact.blocks


def test_constants_without_a_name_belong_to_their_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, _ = lowered("mobilevit", ResolvedRecipe(), tmp_path, monkeypatch)
    found = modules_of(program)
    folded = {name for name, literal in program.constants() if name.startswith("const_") and literal.in_file}
    assert folded  # coremltools names the weight of a convolution with its batch normalization so
    for name in folded:
        (reader,) = readers(program)[name]
        assert found[name] == found[reader.name] != ""


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("blocks_3_attn_qkv_weight", "blocks_3_attn_qkv"),
        ("blocks_3_attn_qkv_weight_to_fp16", "blocks_3_attn_qkv"),
        ("blocks_3_attn_qkv_weight_to_fp16_palettized", "blocks_3_attn_qkv"),
        ("blocks_3_mlp_fc1_bias_quantized", "blocks_3_mlp_fc1"),
        ("p_stages_4_1_conv_1x1_weight_to_fp16", "stages_4_1_conv_1x1"),
        ("b_stem_bn_running_mean", "stem_bn"),
        ("blocks_0_ls1_gamma_to_fp16", "blocks_0_ls1"),
        ("add_35_gamma_0_to_fp16", ""),
        ("const_325_to_fp16", ""),
        ("pos_embed_to_fp16", ""),
    ],
)
def test_the_weights_of_other_packages_carry_their_module(name: str, module: str) -> None:
    assert module_of_weight(name) == module


def test_what_has_no_weights_in_another_package_comes_after_something() -> None:
    def build(mb: Any, x: Any) -> Any:
        before = mb.relu(x=x, name="before")
        weight = mb.const(val=np.ones((4, 3), np.float32), name="blocks_0_attn_qkv_weight_to_fp16")
        linear = mb.linear(x=before, weight=weight, name="linear_0")
        branch = mb.square(x=linear, name="branch")
        scale = mb.const(val=np.ones((4, 4), np.float32), name="blocks_0_attn_proj_weight")
        other = mb.linear(x=branch, weight=scale, name="linear_1")
        return mb.add(x=linear, y=other, name="joined")

    found = modules_of(mil(build, X))
    assert [found[name] for name in ("before", "linear_0", "branch", "linear_1", "joined")] == [
        "",
        "blocks_0_attn_qkv",
        "after blocks_0_attn_qkv",
        "blocks_0_attn_proj",
        "after blocks_0_attn_proj",
    ]
    assert found["blocks_0_attn_qkv_weight_to_fp16"] == "blocks_0_attn_qkv"


def test_the_longest_path_at_the_border_of_a_word_is_meant() -> None:
    program = mil(lambda mb, x: mb.relu(x=mb.relu(x=x, name="blocks_1_mlp_relu"), name="blocks_10_relu_cast_fp16"), X)
    program.package.model.description.metadata.userDefined[MODULES] = json.dumps(
        ["blocks.1", "blocks.1.mlp", "blocks.10", "blocks.1.mlp.relu_x"]
    )
    found = modules_of(program)
    assert (found["blocks_1_mlp_relu"], found["blocks_10_relu_cast_fp16"]) == ("blocks.1.mlp", "blocks.10")


@pytest.mark.parametrize("damaged", ["{", "3", '{"a": 1}', "[1]", "[" * 100_000])
def test_damaged_metadata_is_said_to_be(damaged: str) -> None:
    program = mil(lambda mb, x: mb.relu(x=x), X)
    assert blocks_of(program.package) == {}
    for key in (MODULES, BLOCKS):
        program.package.model.description.metadata.userDefined[key] = damaged
    with pytest.raises(UnreadableArtifact, match=r"its vitedge\.modules is not"):
        modules_of(program)
    with pytest.raises(UnreadableArtifact, match=r"its vitedge\.blocks "):
        blocks_of(program.package)
