# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.export import tiny
from tests.export.quantized_programs import plan_for, simulated
from vitedge.errors import CheckFailed
from vitedge.export.coreml.artifact import check, describe
from vitedge.export.coreml.expected_weights import expected_weights
from vitedge.export.coreml.sparse import scattered
from vitedge.export.coreml.weights import Weight, compare_weights
from vitedge.export.to_coreml import lower
from vitedge.mlprogram.interpreter import MLProgramInterpreter
from vitedge.mlprogram.package import read_package
from vitedge.mlprogram.program import MLProgram, read_program
from vitedge.program.canonical import canonicalize
from vitedge.program.capture import capture
from vitedge.program.program import Program
from vitedge.program.structure import find_structure
from vitedge.quantization.insert import insert
from vitedge.recipe import ResolvedRecipe
from vitedge.records import Artifact

TO_DENSE, OF_INTEGERS = "constexpr_sparse_to_dense", "constexpr_sparse_blockwise_shift_scale"
SPARSE = 8
"""Linear layers of the two blocks, of which two weights in four are zero."""


@cache
def program(scheme: str = "", *, sparse: bool = True) -> Program:
    module = copy.deepcopy(tiny.model("vit"))
    with torch.no_grad():
        for name, value in module.named_parameters():
            if sparse and name.startswith("blocks.") and value.ndim == 2:
                value[:, ::4], value[:, 3::4] = 0, 0
    found = canonicalize(capture(module, tiny.spec("vit"), tiny.BLOCKS["vit"], batch=1))
    if not scheme:
        return found
    structure = find_structure(found)
    return insert(found, plan_for(found, structure, list(structure.layers), scheme))


def computed(mil: MLProgram, images: Tensor) -> Tensor:
    interpreter = MLProgramInterpreter(mil)
    return torch.cat([interpreter.run({"image": one})["logits"] for one in images.split(1)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sparse")


@cache
def package(folder: Path, target: str, precision: str, scheme: str, *, sparse: bool = True) -> Artifact:
    """Lowered once."""
    recipe = ResolvedRecipe(formats=("coreml",), precision=precision, coreml_target=target)
    return lower(program(scheme, sparse=sparse), recipe, folder / f"{target} {precision} {sparse}.mlpackage", ())


@pytest.mark.parametrize(
    ("target", "precision", "scheme", "kinds"),
    [
        ("iOS17", "fp16", "", (SPARSE, 0)),
        ("iOS17", "int8", "int8", (0, 0)),  # before iOS18 integers have no sparse form
        ("iOS18", "int8", "int8", (SPARSE, SPARSE)),
        ("iOS18", "w4", "w4", (SPARSE, SPARSE)),
    ],
)
def test_zeros_are_not_stored_and_the_package_computes_the_same(
    folder: Path, target: str, precision: str, scheme: str, kinds: tuple[int, int]
) -> None:
    source, artifact = program(scheme), package(folder, target, precision, scheme)
    out = folder / artifact.path
    mil = read_program(read_package(out))
    found = [operation.kind for operation in mil.operations]
    assert (found.count(TO_DENSE), found.count(OF_INTEGERS)) == kinds
    assert any("stored sparse" in note for note in artifact.notes) == bool(kinds[0])
    report = check(out, artifact, expected_weights(source))
    assert report.passed, report.reason
    assert describe(out).precision == precision
    assert describe(out).blocks == artifact.blocks
    images = tiny.images(3)
    result, expected = computed(mil, images).numpy(), simulated(source, images).numpy()
    assert tiny.relative_error(result, expected) < 5e-2


def test_a_dense_model_is_stored_as_before_and_a_sparse_one_is_smaller(folder: Path) -> None:
    sparse, dense = package(folder, "iOS17", "fp16", ""), package(folder, "iOS17", "fp16", "", sparse=False)
    kinds = {operation.kind for operation in read_program(read_package(folder / dense.path)).operations}
    assert TO_DENSE not in kinds
    assert dense.size - sparse.size == pytest.approx(7 / 16 * 2 * 12 * 48 * 48 * 2, rel=0.1)


def test_a_value_that_differs_is_found(folder: Path) -> None:
    weights = expected_weights(program())
    name, weight = next((name, one) for name, one in weights.items() if "fc1" in name and one.value.ndim == 2)
    changed = weight.value.copy()
    changed[0, 1] *= 1.5
    found = read_program(read_package(folder / package(folder, "iOS17", "fp16", "").path))
    with pytest.raises(CheckFailed, match=r"blocks_0_mlp_fc1_weight.* 1 of 9216 values differ .* at \[0, 1\]"):
        compare_weights(found, {**weights, name: Weight(changed, weight.module)})


def test_a_mask_marks_as_many_values_as_there_are() -> None:
    mask = np.array([[0, 1, 1], [1, 0, 0]], np.uint8)
    packed, data = np.packbits(mask, bitorder="little"), np.float16([1, 2, 3])
    expected = [[0, 1, 2], [3, 0, 0]]
    for found in (scattered(data, mask), scattered(data, packed, (2, 3))):
        assert found is not None
        assert found.tolist() == expected
    assert scattered(data[:2], mask) is None
    assert scattered(data, packed, (4, 5)) is None
