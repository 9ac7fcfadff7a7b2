# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.export.coreml.models import captured
from tests.vitedge.mlprogram.mil import Build, program
from vitedge.errors import UnreadableArtifact
from vitedge.export.to_coreml import lower
from vitedge.mlprogram import lint as module
from vitedge.mlprogram.lint import lint
from vitedge.mlprogram.package import MODEL, WEIGHTS, read_package
from vitedge.mlprogram.placement import LEAVES_NEURAL_ENGINE
from vitedge.mlprogram.program import Output, ValueType, read_program
from vitedge.recipe import ResolvedRecipe
from vitedge.records import Finding

HALF = np.float16
X = {"x": np.zeros((2, 4), np.float32)}
H = {"x": np.zeros((2, 4), HALF)}
LARGE = np.full((2, 4), 65504, HALF)
TINY = np.full((2, 4), 1e-6, HALF)


def found(build: Build, inputs: dict[str, np.ndarray], rule: str, opset: str = "iOS17") -> list[Finding]:
    return [finding for finding in lint(program(build, inputs, opset), "x.mlpackage") if finding.rule == rule]


OWN: tuple[tuple[str, dict[str, Any], dict[str, Any], dict[str, str]], ...] = (
    ("vit", {"dtype": "uint8"}, {"precision": "fp16"}, {}),
    ("vit", {"dtype": "uint8"}, {"precision": "fp32"}, {"precision": "57 operations"}),
    ("vit", {"dtype": "uint8"}, {"precision": "fp16", "coreml_target": "iOS18"}, {}),
    ("pit distilled", {"dtype": "uint8"}, {"precision": "fp16"}, {}),
    # Its rolls are lowered to slices.
    ("swin", {"dtype": "uint8"}, {"precision": "fp16"}, {}),
)
"""Family, its capture, its recipe, and all that is found: the rule and what its place says."""


@pytest.mark.parametrize(("family", "capture", "recipe", "expected"), OWN)
def test_of_our_own_exports_little_is_found_and_that_is_true(
    family: str, capture: dict[str, Any], recipe: dict[str, Any], expected: dict[str, str], tmp_path: Path
) -> None:
    lower(captured(family, **capture), ResolvedRecipe(formats=("coreml",), **recipe), tmp_path / "m.mlpackage", ())
    findings = {finding.rule: finding.where for finding in lint(tmp_path / "m.mlpackage", "m.mlpackage")}
    assert findings.keys() == expected.keys()
    assert all(words in findings[rule] for rule, words in expected.items())


def test_modules_kept_in_float32_are_named(tmp_path: Path) -> None:
    recipe = ResolvedRecipe(formats=("coreml",), precision="fp16")
    lower(captured("vit", dtype="uint8"), recipe, tmp_path / "m.mlpackage", ("blocks.1.mlp",))
    (finding,) = lint(tmp_path / "m.mlpackage", "the artifact")
    assert (finding.artifact, finding.rule) == ("the artifact", "float32 module")
    assert finding.where.startswith("linear blocks_1_mlp_fc1")
    assert "1 values are cast" in finding.reason
    assert "--min-sqnr" in finding.remedy


def test_a_rank_above_five() -> None:
    """coremltools writes none: the declared type of a program that it wrote is changed."""
    read = program(lambda mb, x: mb.reshape(x=x, shape=(2, 1, 1, 2, 2), name="five"), X)
    assert not [finding for finding in lint(read, "x") if finding.rule == "rank"]
    last = read.operations[-1]
    six = replace(last, outputs=(Output("six", ValueType("float32", (2, 1, 1, 1, 2, 2))),))
    (finding,) = [one for one in lint(replace(read, operations=(*read.operations, six)), "x") if one.rule == "rank"]
    assert finding.where == "reshape six"
    assert "1 values have a rank above 5, up to 6" in finding.reason


@pytest.mark.parametrize(
    ("kind", "build"),
    [
        ("gather", lambda mb, x: mb.gather(x=x, indices=[1, 0], axis=1, name="it")),
        ("gather_nd", lambda mb, x: mb.gather_nd(x=x, indices=[[1, 0]], name="it")),
        ("scatter_nd", lambda mb, x: mb.scatter_nd(data=x, indices=[[1]], updates=[[1.0, 2.0, 3.0, 4.0]], name="it")),
        ("topk", lambda mb, x: mb.topk(x=x, k=2, name="it")),
        ("argsort", lambda mb, x: mb.argsort(x=x, name="it")),
        ("non_zero", lambda mb, x: mb.non_zero(x=x, name="it")),
        ("cumsum", lambda mb, x: mb.cumsum(x=x, name="it")),
        ("shape", lambda mb, x: mb.shape(x=mb.non_zero(x=x), name="it")),
    ],
)  # fmt: skip
def test_operations_that_leave_the_neural_engine(kind: str, build: Build) -> None:
    finding = next(finding for finding in found(build, X, "neural engine") if finding.where.startswith(f"{kind} "))
    assert "it" in finding.where
    assert finding.reason.startswith(f"1 x {kind}: {LEAVES_NEURAL_ENGINE[kind]}")
    assert "vitedge kit write BUNDLE DIR" in finding.remedy


def test_operations_of_one_kind_are_one_finding() -> None:
    def build(mb: Any, x: Any) -> Any:
        return mb.gather(x=mb.gather(x=x, indices=[1, 0], axis=1, name="first"), indices=[1, 0], axis=1)

    (finding,) = found(build, X, "neural engine")
    assert finding.where == "gather first and 1 more"


def test_the_table_names_operations_that_exist() -> None:
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry  # noqa: PLC0415

    assert set(LEAVES_NEURAL_ENGINE) <= set(SSAOpRegistry.core_ops)


def test_constants_that_are_computed_at_every_prediction() -> None:
    def build(mb: Any, x: Any) -> Any:
        table = mb.range_1d(start=0.0, end=4.0, step=1.0)
        return mb.add(x=x, y=mb.sqrt(x=table, name="root"), name="sum")

    read = program(build, X)
    findings = {finding.rule: finding for finding in lint(read, "x")}
    assert findings["constant folding"].where == "sqrt root"
    assert findings["constant folding"].reason.startswith("2 operations compute the same values")
    assert "neural engine" not in findings  # the range is gone once it is folded
    assert not found(lambda mb, x: mb.sqrt(x=x), X, "constant folding")


def test_a_chain_of_constants_that_is_an_output() -> None:
    (finding,) = found(lambda mb, x: (mb.relu(x=x), mb.sqrt(x=[1.0, 4.0], name="y")), X, "constant folding")
    assert finding.where == "sqrt y"


@pytest.mark.parametrize(
    ("shape", "rules"),
    [
        ((1, 3, 8, 8), ["image input"]),
        ((1, 1, 8, 8), ["image input"]),
        ((1, 4, 8, 8), []),
        ((4, 3, 8, 8), ["batch"]),
        ((1, 3), []),
    ],
)
def test_inputs(shape: tuple[int, ...], rules: list[str]) -> None:
    read = program(lambda mb, x: mb.relu(x=x), {"x": np.zeros(shape, HALF)})
    read.package.model.description.input[0].type.multiArrayType.shape[:] = shape
    findings = lint(read, "x")
    assert [finding.rule for finding in findings] == rules
    assert all(finding.where == "input x" for finding in findings)
    remedies = {"image input": "--input uint8", "batch": "--batch 1"}
    assert all(remedies[finding.rule] in finding.remedy for finding in findings)


def _array_range(kind: Any) -> None:
    for low, high in ((1, 1), (3, 3), (8, 16), (8, -1)):
        kind.multiArrayType.shapeRange.sizeRanges.add(lowerBound=low, upperBound=high)


def _array_fixed(kind: Any) -> None:
    for edge in (1, 3, 8, 8):
        kind.multiArrayType.shapeRange.sizeRanges.add(lowerBound=edge, upperBound=edge)
    kind.multiArrayType.shape[:] = (1, 9, 8, 8)


def _array_list(kind: Any) -> None:
    for edge in (8, 16):
        kind.multiArrayType.enumeratedShapes.shapes.add(shape=(1, 3, edge, edge))


def _image_range(kind: Any) -> None:
    kind.imageType.imageSizeRange.widthRange.lowerBound = 8
    kind.imageType.imageSizeRange.widthRange.upperBound = 16


def _image_list(kind: Any) -> None:
    for edge in (8, 16):
        kind.imageType.enumeratedSizes.sizes.add(width=edge, height=edge)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_array_range, "a range of shapes"),
        (_array_list, "a list of shapes"),
        (_image_range, "a range of shapes"),
        (_image_list, "a list of shapes"),
        (_array_fixed, ""),
    ],
)
def test_shapes_that_are_not_fixed(change: Any, words: str) -> None:
    read = program(lambda mb, x: mb.relu(x=x), H)
    kind = read.package.model.description.input[0].type
    change(kind)
    findings = [finding for finding in lint(read, "x") if finding.rule == "dynamic shape"]
    assert [words in finding.reason for finding in findings] == [True] * bool(words)


def test_values_of_unknown_shape() -> None:
    (finding,) = found(lambda mb, x: mb.non_zero(x=x, name="it"), X, "dynamic shape")
    assert finding.where == "non_zero it"


HALVES: tuple[tuple[str, np.ndarray, str], ...] = (
    ("plain", np.linspace(-3, 3, 8, dtype=HALF).reshape(2, 4), ""),
    ("zeros", np.zeros((2, 4), HALF), ""),
    ("NaN", np.array([[1, np.nan, 2, np.inf]] * 2, HALF), "hold NaN"),
    ("infinity", np.array([[1, -np.inf, 2, 3]] * 2, HALF), "hold infinity"),
    ("largest", -LARGE, "hold 65504"),
    ("subnormal", TINY, "below 6.1e-05"),
    ("few subnormal", np.array([[1e-6, 1, 2, 3, 4]] * 2, HALF)[:, :4] * HALF(1), ""),
)


@pytest.mark.parametrize(("name", "values", "words"), HALVES, ids=[name for name, _, _ in HALVES])
def test_constants_that_float16_does_not_hold(name: str, values: np.ndarray, words: str) -> None:
    findings = found(lambda mb, x: mb.add(x=x, y=mb.const(val=values, name="table")), H, "float16 range")
    assert [words in finding.reason for finding in findings] == [True] * bool(words)
    assert all(finding.where == "constant table" for finding in findings)


def test_constants_are_looked_at_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 3)
    values = np.ones((2, 4), HALF)
    values[1, 3] = np.inf
    (finding,) = found(lambda mb, x: mb.add(x=x, y=values), H, "float16 range")
    assert "hold infinity" in finding.reason


def test_what_pads_may_be_infinite() -> None:
    def build(mb: Any, x: Any) -> Any:
        return mb.pad(x=x, pad=[0, 1], mode="constant", constant_val=HALF(-np.inf))

    assert not found(build, H, "float16 range")


@pytest.mark.parametrize(("epsilon", "count"), [(1e-12, 1), (1e-7, 1), (1e-6, 0), (1e-5, 0)])
def test_an_epsilon_that_is_lost_in_float16(epsilon: float, count: int) -> None:
    findings = found(lambda mb, x: mb.layer_norm(x=x, axes=[1], epsilon=HALF(epsilon), name="norm"), H, "float16 range")
    assert len(findings) == count
    assert all(finding.where == "epsilon of layer_norm norm" for finding in findings)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of float16 weights that lie in the file. Not to be changed."""
    path = tmp_path_factory.mktemp("lint") / "m.mlpackage"
    lower(captured("vit"), ResolvedRecipe(formats=("coreml",), precision="fp16"), path, ())
    return path


def test_a_package_needs_no_pytorch(package: Path) -> None:
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from vitedge.mlprogram.lint import lint\n"
        f"print([finding.rule for finding in lint({str(package)!r}, 'x')])"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert shown == "['image input']\n"


def test_one_broken_number_among_the_weights_is_found(package: Path) -> None:
    read = read_program(read_package(package))
    name, literal = next(
        (name, value) for name, value in read.constants() if value.in_file and value.type.dtype == "float16"
    )
    literal.decode()[...].reshape(-1)[:1] = np.nan  # the file is mapped for reading alone: in memory only
    (finding,) = [finding for finding in lint(read, "x") if finding.rule == "float16 range"]
    assert finding.where == f"constant {name}"
    assert (package / WEIGHTS).is_file()


def test_a_damaged_package_is_one_sentence(package: Path, tmp_path: Path) -> None:
    shutil.copytree(package, tmp_path / "m.mlpackage")
    (tmp_path / "m.mlpackage" / MODEL).write_bytes((package / MODEL).read_bytes()[:500])
    with pytest.raises(UnreadableArtifact):
        lint(tmp_path / "m.mlpackage", "x")
