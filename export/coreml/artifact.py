# SPDX-License-Identifier: Apache-2.0
"""Describes an existing Core ML package, and checks it against the record of its artifact. Needs no PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from vitedge.errors import BadRecipe, CheckFailed, UnreadableArtifact
from vitedge.export.coreml.describe import PREFIX, oldest_systems
from vitedge.export.coreml.scheme import ROUNDED, count_integers, scheme_of
from vitedge.export.coreml.weights import compare_weights, numbers, quantized_parts
from vitedge.files.digest import hash_file, hash_listing
from vitedge.files.plain import from_dict
from vitedge.files.stray import is_stray
from vitedge.mlprogram import description
from vitedge.mlprogram.blobs import Blobs, Place
from vitedge.mlprogram.limits import MAX_RANK
from vitedge.mlprogram.modules import blocks_of
from vitedge.mlprogram.package import WEIGHTS, Package, read_package
from vitedge.mlprogram.program import MLProgram, Operation, Output, read_program
from vitedge.recipe import SCHEMES
from vitedge.records import Artifact, ModelSpec, StructureReport, TensorSpec

_TARGETS = {6: "iOS15", 7: "iOS16", 8: "iOS17", 9: "iOS18", 10: "iOS26"}
"""Specification version to the first iOS that reads it."""


def describe(path: Path) -> Artifact:
    """Reads what a package declares: format, precision, interface, blocks and hashes.

    Raises:
        UnreadableArtifact: it is not a package of one ML Program.
        MissingBackend: coremltools is not installed.
    """
    package = read_package(path)
    program = read_program(package)
    files = {f"{path.name}/{name}": hash_file(path / name) for name in sorted(_present(path))}
    return Artifact(
        format="coreml",
        path=path.name,
        sha256=hash_listing(files),
        size=sum((path.parent / name).stat().st_size for name in files),
        precision=_declared_precision(program),
        target=_target(package),
        inputs=description.inputs(package),
        outputs=description.outputs(package),
        files=files,
        blocks=_blocks(package, program),
        oldest_runtimes=oldest_systems(_target(package)),
    )


def carried_spec(path: Path) -> ModelSpec | None:
    """Returns the model that a package of vitedge declares; None for any other package.

    Raises:
        UnreadableArtifact: it is no package, or what it says cannot be read.
        MissingBackend: coremltools is not installed.
    """
    carried = description.metadata(read_package(path), f"{PREFIX}spec")
    try:
        return None if carried is None else from_dict(ModelSpec, carried)
    except BadRecipe as error:
        raise UnreadableArtifact(f"{path} carries a description that cannot be read: {error}") from error


def _blocks(package: Package, program: MLProgram) -> dict[str, str]:
    """Returns the listed blocks whose values are still there: compression may rename them."""
    known = {output.name for operation in program.operations for output in operation.outputs}
    return {block: value for block, value in blocks_of(package).items() if value in known}


def check(path: Path, artifact: Artifact, weights: Mapping[str, Any] | None = None) -> StructureReport:
    """Checks a package without running it; needs neither macOS nor PyTorch.

    Args:
        path: the ``.mlpackage`` folder.
        artifact: the record that the file should agree with.
        weights: the expected constants, from `vitedge.export.coreml.expected_weights`; None checks them by their
            hashes alone.

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


def _check(path: Path, artifact: Artifact, weights: Mapping[str, Any] | None) -> Iterator[str]:
    yield _files(path, artifact)
    package = read_package(path)
    program = read_program(package)
    yield _version(package, artifact, program.opset)
    yield _interface(package, artifact, program.outputs)
    yield _ranks(program)
    yield _precision(program, artifact)
    yield _finite(program)
    yield _unused(package)
    if weights is not None:
        yield compare_weights(program, weights)


def _present(package: Path) -> set[str]:
    """Returns the paths of a package's files within it, without what operating systems leave in folders."""
    names = (file.relative_to(package).as_posix() for file in package.rglob("*") if file.is_file())
    return {name for name in names if not is_stray(name)}


def _files(path: Path, artifact: Artifact) -> str:
    expected = {name.removeprefix(f"{artifact.path}/"): digest for name, digest in artifact.files.items()}
    present = _present(path)
    if present != set(expected):
        raise CheckFailed(f"{path} lacks or has too much: {', '.join(sorted(present ^ set(expected)))}")
    for name, digest in expected.items():
        if hash_file(path / name) != digest:
            raise CheckFailed(f"{path / name} is not the file that was exported: its SHA-256 is another")
    return f"{len(present)} files with the hashes they were exported with"


def _target(package: Package) -> str:
    version = int(package.model.specificationVersion)
    return _TARGETS.get(version, f"specification version {version}")


def _version(package: Package, artifact: Artifact, opset: str) -> str:
    found = _target(package)
    if found != artifact.target:
        raise CheckFailed(f"{package.path} is for {found} instead of {artifact.target}")
    return f"specification version {package.model.specificationVersion}, {found}, operation set {opset}"


def _interface(package: Package, artifact: Artifact, returned: tuple[str, ...]) -> str:
    found = description.inputs(package)
    if found != artifact.inputs:
        raise CheckFailed(f"{package.path} takes {_list(found)} instead of {_list(artifact.inputs)}")
    found = description.outputs(package)
    if found != artifact.outputs:
        raise CheckFailed(f"{package.path} returns {_list(found)} instead of {_list(artifact.outputs)}")
    absent = [name for name in description.output_names(package) if name not in returned]
    if absent:
        raise CheckFailed(f"{package.path} declares outputs that its program does not return: {', '.join(absent)}")
    return f"takes {_list(artifact.inputs)}; returns {_list(artifact.outputs)}"


def _list(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{spec.name} {spec.dtype} {'x'.join(map(str, spec.shape))}" for spec in specs)


def _values(program: MLProgram) -> Iterator[tuple[Operation, Output, int]]:
    """Yields every operation with each tensor that it returns, and the tensor's rank."""
    for operation in program.operations:
        for output in operation.outputs:
            if output.type.shape is not None:
                yield operation, output, len(output.type.shape)


def _ranks(program: MLProgram) -> str:
    highest = 0
    for operation, output, rank in _values(program):
        highest = max(highest, rank)
        if rank > MAX_RANK:
            raise CheckFailed(f"{operation.kind} makes {output.name} of rank {rank}; Core ML takes {MAX_RANK} at most")
    return f"no tensor of rank above {highest}"


def _precision(program: MLProgram, artifact: Artifact) -> str:
    counts = _operations_by_precision(program)
    if artifact.precision == "fp32" and counts["float16"]:
        raise CheckFailed(f"{counts['float16']} operations compute in fp16 in a package of fp32")
    if artifact.precision == "fp16" and not counts["float16"]:
        raise CheckFailed("no operation computes in fp16 in a package of fp16")
    summary = f"{counts['float16']} operations in fp16, {counts['float32']} in fp32"
    weights, activations = count_integers(program)
    if artifact.precision in SCHEMES and not weights:
        raise CheckFailed(f"no weight is quantized in a package of {artifact.precision}")
    if artifact.precision in ROUNDED and not activations:
        raise CheckFailed(f"no activation is quantized in a package of {artifact.precision}")
    return (
        f"{summary}; {weights} weights and {activations} activations as integers" if weights or activations else summary
    )


def _declared_precision(program: MLProgram) -> str:
    """Returns the scheme of a quantized package, ``compressed`` for another form of weights, else the float type."""
    return scheme_of(program) or ("fp16" if _operations_by_precision(program)["float16"] else "fp32")


def _operations_by_precision(program: MLProgram) -> dict[str, int]:
    counts = {"float16": 0, "float32": 0}
    for operation, output, _ in _values(program):
        if output.type.dtype in counts and operation.kind not in ("const", "cast"):
            counts[output.type.dtype] += 1
    return counts


def _unused(package: Package) -> str:
    places: dict[Path, list[Place]] = {}
    for function in package.functions:
        for literal in read_program(package, function).literals():
            if literal.place is not None:
                places.setdefault(literal.place.file, []).append(literal.place)
    for file in sorted((package.path / WEIGHTS).parent.rglob("*")):
        if file.is_file() and not is_stray(file.name):
            Blobs(file.resolve()).check_unused(places.get(file.resolve(), ()))
    return "every byte of its weights belongs to a constant"


def _finite(program: MLProgram) -> str:
    # What a maximum is taken over is padded with minus infinity.
    padding = {name for operation in program.operations if operation.kind == "pad" for name in operation.reads()}
    count = 0
    for name, value in chain(numbers(program), quantized_parts(program)):
        if value.dtype.kind == "f" and name not in padding and not np.isfinite(value).all():
            raise CheckFailed(f"constant {name} is not finite")
        count += 1
    return f"{count} constants, all finite"
