# SPDX-License-Identifier: Apache-2.0
"""Tests of `weights` and `expected_weights`: a package's constants against what they have to be."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.export.coreml.models import captured
from vitedge.errors import CheckFailed
from vitedge.export.coreml.describe import PREFIX
from vitedge.export.coreml.expected_weights import expected_weights
from vitedge.export.coreml.quiet import load_coremltools, quiet
from vitedge.export.coreml.weights import Weight, compare_weights, plain
from vitedge.export.to_coreml import lower
from vitedge.mlprogram.package import MODEL, read_package
from vitedge.mlprogram.program import MLProgram, read_program
from vitedge.recipe import ResolvedRecipe

RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of a tiny ViT, in half precision. Not to be changed."""
    path = tmp_path_factory.mktemp("package") / "model.mlpackage"
    lower(captured(), ResolvedRecipe(formats=("coreml",), precision="fp16"), path, ())
    return path


@pytest.fixture
def program(package: Path, tmp_path: Path) -> MLProgram:
    """A copy to be changed."""
    return read_program(read_package(Path(shutil.copytree(package, tmp_path / package.name))))


@pytest.fixture(scope="module")
def weights() -> dict[str, Weight]:
    return expected_weights(captured())


def disowned(program: MLProgram) -> MLProgram:
    """The same package, as if another tool had written it."""
    path = program.package.path
    model = read_package(path).model
    del model.description.metadata.userDefined[f"{PREFIX}version"]
    (path / MODEL).write_bytes(model.SerializeToString())
    return read_program(read_package(path))


def changed(weights: dict[str, Weight], name: str, **fields: Any) -> dict[str, Weight]:
    return {**weights, name: replace(weights[name], **fields)}


FC1 = "p_blocks_1_mlp_fc1_weight"


def test_every_weight_says_what_applies_it(weights: dict[str, Weight]) -> None:
    assert weights[FC1].module == "blocks.1.mlp.fc1"
    assert weights["p_norm_weight"].module == "norm"
    assert {weight.origin for weight in weights.values()} == {"copied"}


def test_a_fold_is_told_from_a_copy() -> None:
    found = expected_weights(captured("hybrid"))
    origins = {weight.module: weight.origin for weight in found.values()}
    assert origins["patch_embed.backbone.conv"] == "computed"
    assert origins["patch_embed.proj"] == "copied"


def test_equal_weights_are_counted(program: MLProgram, weights: dict[str, Weight]) -> None:
    assert (
        compare_weights(program, weights) == "31 weights equal to the reference's, 0 computed from them within rounding"
    )


@pytest.mark.parametrize("ours", [True, False])
def test_a_weight_that_is_only_close_is_refused(program: MLProgram, weights: dict[str, Weight], ours: bool) -> None:
    value = weights[FC1].value.copy()
    value[3, 5] *= 1.001
    program = program if ours else disowned(program)
    with pytest.raises(
        CheckFailed, match=r": 1 of 4096 values differ from what module blocks\.1\.mlp\.fc1 has, the first at \[3, 5\]"
    ):
        compare_weights(program, changed(weights, FC1, value=value))


def test_what_is_computed_may_round_in_another_way(program: MLProgram, weights: dict[str, Weight]) -> None:
    value = weights[FC1].value * np.float32(1 + 1e-6)
    assert (value.astype(np.float16) != weights[FC1].value.astype(np.float16)).any()
    found = compare_weights(program, changed(weights, FC1, value=value, origin="computed"))
    assert found.startswith("30 weights equal to the reference's, 1 computed")
    with pytest.raises(CheckFailed, match="blocks_1_mlp_fc1_weight_to_fp16"):
        compare_weights(program, changed(weights, FC1, value=value * 1.01, origin="computed"))


def test_a_fold_is_exact_where_the_others_are(program: MLProgram, weights: dict[str, Weight]) -> None:
    folded = changed(weights, FC1, value=weights[FC1].value * np.float32(1 + 1e-6), origin="folded")
    assert "1 computed" in compare_weights(program, folded)
    with pytest.raises(CheckFailed, match=r"of 4096 values differ from what module blocks\.1\.mlp\.fc1"):
        compare_weights(program, changed(folded, "p_norm_weight", origin="folded"))


def test_the_matrices_of_others_may_be_transposed(program: MLProgram, weights: dict[str, Weight]) -> None:
    turned = changed(weights, FC1, value=np.ascontiguousarray(weights[FC1].value.T))
    assert compare_weights(disowned(program), turned).startswith("31 weights equal")


def test_what_others_hold_in_another_form_is_not_compared(program: MLProgram, weights: dict[str, Weight]) -> None:
    strange = {name: weight for name, weight in weights.items() if name != FC1}
    strange["p_scaled"] = Weight(RANDOM.standard_normal((7, 9)).astype(np.float32), "scaled")
    with pytest.raises(CheckFailed, match="is no weight of the reference"):
        compare_weights(program, strange)
    found = compare_weights(disowned(program), strange)
    assert found.endswith("1 others have no counterpart and were not compared")


def test_a_weight_that_is_missing_is_named(program: MLProgram, weights: dict[str, Weight]) -> None:
    more = weights | {"p_other": Weight(RANDOM.standard_normal((7, 9)).astype(np.float32), "other")}
    with pytest.raises(CheckFailed, match="no constant of the package holds p_other"):
        compare_weights(program, more)


def test_compressed_weights_are_not_compared(tmp_path: Path, weights: dict[str, Weight]) -> None:
    path = tmp_path / "model.mlpackage"
    lower(captured(), ResolvedRecipe(formats=("coreml",)), path, ())
    ct = load_coremltools()
    import coremltools.optimize.coreml as compress  # noqa: PLC0415

    with quiet():
        settings = compress.OpLinearQuantizerConfig(weight_threshold=512)
        model = ct.models.MLModel(str(path), skip_model_load=True)
        model = compress.linear_quantize_weights(model, compress.OptimizationConfig(global_config=settings))
        model.save(str(path))
    program = read_program(read_package(path))
    assert "constexpr" in " ".join(operation.kind for operation in program.operations)
    assert "not compared" in compare_weights(program, weights)


def test_conversions_add_to_names() -> None:
    assert plain("p_blocks_0_attn_qkv_weight_to_fp16_palettized") == "blocks_0_attn_qkv_weight"
    assert plain("blocks_0_attn_qkv_weight") == "blocks_0_attn_qkv_weight"
