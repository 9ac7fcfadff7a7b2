# SPDX-License-Identifier: Apache-2.0
"""A Core ML package that is already there: what it is, and whether it is what it is said to be. Needs no PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vitedge.digest import hash_file, hash_listing
from vitedge.errors import CheckFailed, UnreadableArtifact
from vitedge.export.coreml_package import DTYPES, Array, Package, read_package
from vitedge.export.coreml_quiet import load_coremltools
from vitedge.export.coreml_weights import compare_weights
from vitedge.records import Artifact, StructureReport, TensorSpec

MAX_RANK = 5
_ARRAY_DTYPES = {65568: "float32", 65552: "float16", 65600: "float64", 131104: "int32"}
"""``ArrayFeatureType.ArrayDataType`` to NumPy's name."""


def describe(path: Path) -> Artifact:
    """What a package says of itself.

    Raises:
        UnreadableArtifact: it is not a package of one ML Program.
        MissingBackend: coremltools is not installed.
    """
    package = read_package(path)
    description = package.model.description
    scores = {description.predictedFeatureName, description.predictedProbabilitiesName}
    present = sorted(file.relative_to(path.parent).as_posix() for file in path.rglob("*") if file.is_file())
    files = {name: hash_file(path.parent / name) for name in present}
    return Artifact(
        format="coreml",
        path=path.name,
        sha256=hash_listing(files),
        size=sum((path.parent / name).stat().st_size for name in files),
        precision="fp16" if _operations_by_precision(package)["float16"] else "fp32",
        target=_target(int(package.model.specificationVersion)),
        inputs=tuple(_feature(feature) for feature in description.input),
        outputs=tuple(_feature(feature) for feature in description.output if feature.name not in scores),
        files=files,
    )


def check(path: Path, artifact: Artifact, weights: Mapping[str, Array] | None = None) -> StructureReport:
    """Checks a package without running it; needs neither macOS nor PyTorch.

    Args:
        path: the ``.mlpackage`` folder.
        artifact: what it should be.
        weights: what its constants should be, from `vitedge.export.coreml_reference.expected_weights`; None leaves
            them to the hashes.

    Raises:
        MissingBackend: coremltools is not installed.
    """
    checks: list[str] = []
    try:
        for phrase in _check(path, artifact, weights):
            checks.append(phrase)  # one by one: what held before a failure is reported too
    except (CheckFailed, UnreadableArtifact) as error:
        return StructureReport(artifact.path, tuple(checks), passed=False, reason=str(error).rstrip("."))
    return StructureReport(artifact.path, tuple(checks), passed=True)


def _check(path: Path, artifact: Artifact, weights: Mapping[str, Array] | None) -> Iterator[str]:
    yield _files(path, artifact)
    package = read_package(path)
    yield _version(package, artifact)
    yield _interface(package, artifact)
    yield _ranks(package)
    yield _precision(package, artifact)
    yield _finite(package)
    if weights is not None:
        yield compare_weights(package, weights)


def _files(path: Path, artifact: Artifact) -> str:
    expected = {name.removeprefix(f"{artifact.path}/"): digest for name, digest in artifact.files.items()}
    present = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    if present != set(expected):
        raise CheckFailed(f"{path} lacks or has too much: {', '.join(sorted(present ^ set(expected)))}")
    for name, digest in expected.items():
        if hash_file(path / name) != digest:
            raise CheckFailed(f"{path / name} is not the file that was exported: its SHA-256 is another")
    return f"{len(present)} files with the hashes they were exported with"


def _target(version: int) -> str:
    """The iOS release of a specification version."""
    members = load_coremltools().target.__members__.items()
    return next((name for name, member in members if name.startswith("iOS") and int(member) == version), str(version))


def _version(package: Package, artifact: Artifact) -> str:
    ct = load_coremltools()
    if artifact.target not in ct.target.__members__:
        raise CheckFailed(f"this coremltools does not know the deployment target {artifact.target} of {package.path}")
    wanted = int(ct.target[artifact.target])
    found = int(package.model.specificationVersion)
    if found != wanted:
        raise CheckFailed(f"{package.path} has specification version {found}; {artifact.target} is {wanted}")
    return f"specification version {found}, {artifact.target}, operation set {package.function.opset}"


def _interface(package: Package, artifact: Artifact) -> str:
    description = package.model.description
    extra = {description.predictedFeatureName, description.predictedProbabilitiesName}
    found = tuple(_feature(feature) for feature in description.input)
    if found != artifact.inputs:
        raise CheckFailed(f"{package.path} takes {_list(found)} instead of {_list(artifact.inputs)}")
    found = tuple(_feature(feature) for feature in description.output if feature.name not in extra)
    if found != artifact.outputs:
        raise CheckFailed(f"{package.path} returns {_list(found)} instead of {_list(artifact.outputs)}")
    returned = set(package.block.outputs)
    absent = [feature.name for feature in description.output if feature.name not in returned]
    if absent:
        raise CheckFailed(f"{package.path} declares outputs that its program does not return: {', '.join(absent)}")
    return f"takes {_list(artifact.inputs)}; returns {_list(artifact.outputs)}"


def _feature(feature: Any) -> TensorSpec:
    """An input or output of the model's description; what is no tensor has the name of its kind as dtype."""
    kind = feature.type.WhichOneof("Type")
    if kind == "imageType":
        image = feature.type.imageType
        channels = 3 if image.colorSpace in (20, 30) else 1
        return TensorSpec(feature.name, (1, channels, int(image.height), int(image.width)), "uint8")
    if kind == "multiArrayType":
        array = feature.type.multiArrayType
        return TensorSpec(
            feature.name, tuple(int(edge) for edge in array.shape), _ARRAY_DTYPES.get(array.dataType, "?")
        )
    return TensorSpec(feature.name, (), str(kind))


def _list(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{spec.name} {spec.dtype} {'x'.join(map(str, spec.shape))}" for spec in specs)


def _values(package: Package) -> Iterator[tuple[Any, Any]]:
    """Every operation with each tensor type it returns."""
    for operation in package.block.operations:
        for output in operation.outputs:
            if output.type.HasField("tensorType"):
                yield operation, output


def _ranks(package: Package) -> str:
    highest = 0
    for operation, output in _values(package):
        rank = int(output.type.tensorType.rank)
        highest = max(highest, rank)
        if rank > MAX_RANK:
            raise CheckFailed(f"{operation.type} makes {output.name} of rank {rank}; Core ML takes {MAX_RANK} at most")
    return f"no tensor of rank above {highest}"


def _precision(package: Package, artifact: Artifact) -> str:
    counts = _operations_by_precision(package)
    if artifact.precision == "fp32" and counts["float16"]:
        raise CheckFailed(f"{counts['float16']} operations compute in fp16 in a package of fp32")
    if artifact.precision == "fp16" and not counts["float16"]:
        raise CheckFailed("no operation computes in fp16 in a package of fp16")
    return f"{counts['float16']} operations in fp16, {counts['float32']} in fp32"


def _operations_by_precision(package: Package) -> dict[str, int]:
    counts = {"float16": 0, "float32": 0}
    for operation, output in _values(package):
        dtype = DTYPES.get(output.type.tensorType.dataType, "")
        if dtype in counts and operation.type not in ("const", "cast"):
            counts[dtype] += 1
    return counts


def _finite(package: Package) -> str:
    # What a maximum is taken over is padded with minus infinity.
    padding = {
        binding.name
        for operation in package.block.operations
        if operation.type == "pad"
        for binding in operation.inputs["constant_val"].arguments
    }
    count = 0
    for name, value in package.constants():
        if value.dtype.kind == "f" and name not in padding and not np.isfinite(value).all():
            raise CheckFailed(f"constant {name} is not finite")
        count += 1
    return f"{count} constants, all finite"
