# SPDX-License-Identifier: Apache-2.0
"""An ONNX file that is already there: what it is, and whether it is what it is said to be. Needs no PyTorch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto

from vitedge.errors import BadRecipe, CheckFailed, UnreadableArtifact
from vitedge.export.onnx.oldest_runtimes import oldest_runtimes, sentence
from vitedge.export.onnx.skeleton import Skeleton, read_skeleton
from vitedge.export.tensorrt.sparsity import count_sparse
from vitedge.files.digest import hash_file
from vitedge.files.plain import from_dict
from vitedge.records import Artifact, ModelSpec, StructureReport, TensorSpec

_PREFIX = "vitedge."


def describe(path: Path) -> Artifact:
    """Reads what a file declares; one that vitedge did not write counts as fp32 unless its weights are fp16.

    Raises:
        UnreadableArtifact: it is no ONNX model.
    """
    skeleton = _read(path)
    model, weights = skeleton.model, skeleton.weights
    graph = model.graph
    metadata = {entry.key: entry.value for entry in model.metadata_props if entry.key.startswith(_PREFIX)}
    names = {tensor.name for tensor in weights}
    files = {name: hash_file(path.parent / name) for name in (path.name, *_external(weights))}
    return Artifact(
        format="onnx",
        path=path.name,
        sha256=files[path.name],
        size=sum((path.parent / name).stat().st_size for name in files),
        precision=metadata.get(f"{_PREFIX}precision", "fp16" if _is_half(weights) else "fp32"),
        target=f"opset {_opset(model)}",
        inputs=tuple(_spec(value) for value in graph.input if value.name not in names),
        outputs=tuple(_spec(value) for value in graph.output),
        files=files,
        blocks=json.loads(metadata.get(f"{_PREFIX}blocks", "{}")),
        oldest_runtimes=oldest_runtimes(model),
    )


def carried_spec(path: Path) -> ModelSpec | None:
    """Returns the model that a file of vitedge declares; None for any other file.

    Raises:
        UnreadableArtifact: it is no ONNX model, or what it says cannot be read.
    """
    metadata = {entry.key: entry.value for entry in _read(path).model.metadata_props}
    if f"{_PREFIX}spec" not in metadata:
        return None
    try:
        return from_dict(ModelSpec, json.loads(metadata[f"{_PREFIX}spec"]))
    except (ValueError, RecursionError, BadRecipe) as error:
        raise UnreadableArtifact(f"{path} carries a description that cannot be read: {error}.") from error


def check(path: Path, artifact: Artifact, weights: Mapping[str, Any] | None = None) -> StructureReport:
    """Checks a file without running it: by ONNX's own checker, and its interface against the artifact's.

    Args:
        path: the file.
        artifact: the record that the file should agree with.
        weights: not looked at; an ONNX file's arithmetic is shown by running it.
    """
    del weights
    try:
        found = describe(path)
        skeleton = read_skeleton(path)
        onnx.checker.check_model(skeleton.model, full_check=True)
    except (
        CheckFailed,
        UnreadableArtifact,
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
    ) as error:
        return StructureReport(artifact.path, (), passed=False, reason=str(error).strip().splitlines()[0].rstrip("."))
    for name in ("target", "inputs", "outputs"):
        if getattr(found, name) != getattr(artifact, name):
            reason = f"{name}: {getattr(found, name)} instead of {getattr(artifact, name)}"
            return StructureReport(artifact.path, ("valid ONNX",), passed=False, reason=reason)
    checks = ("valid ONNX", found.target, "inputs and outputs as declared", *_sparse_weights(skeleton))
    return StructureReport(artifact.path, checks, passed=True, remarks=(sentence(found.oldest_runtimes),))


def _sparse_weights(skeleton: Skeleton) -> Iterator[str]:
    sparse, weights = count_sparse(skeleton.model, skeleton.numbers)
    if sparse:
        yield f"2:4 sparse in {sparse} of {weights} weights"


def _read(path: Path) -> Skeleton:
    try:
        return read_skeleton(path)
    except CheckFailed as error:
        raise UnreadableArtifact(str(error)) from error
    except (OSError, ValueError) as error:
        raise UnreadableArtifact(f"{path} is not an ONNX model, or is cut short.") from error


def _external(weights: Sequence[TensorProto]) -> list[str]:
    """Returns the names of the files beside the model that hold its weights."""
    names = {
        entry.value
        for tensor in weights
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return sorted(names)


def _is_half(weights: Sequence[TensorProto]) -> bool:
    return any(tensor.data_type == TensorProto.FLOAT16 and len(tensor.dims) > 1 for tensor in weights)


def _opset(model: ModelProto) -> int:
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def _spec(value: ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    shape = tuple(edge.dim_value if edge.HasField("dim_value") else edge.dim_param or "?" for edge in kind.shape.dim)
    return TensorSpec(value.name, shape, str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)))
