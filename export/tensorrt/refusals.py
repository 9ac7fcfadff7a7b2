# SPDX-License-Identifier: Apache-2.0
"""Why an ONNX file cannot be built: found in the file before a build is started, or in the builder's own errors.

The builders read an empty file and a text file as models without layers, one of them ends with a segmentation fault on
an Attention of one tensor, and TensorRT-RTX 1.7 compiles no float32 GEMM for Turing. These are found beforehand. The
errors of parser and compiler are told in a sentence that names the module, for TensorRT's messages name their own code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

from vitedge.errors import BadRecipe, CheckFailed, UnreadableArtifact
from vitedge.export.tensorrt.graph import OnnxGraph, opset_of
from vitedge.export.tensorrt.products import module_of, name_of
from vitedge.export.tensorrt.request import EngineRequest, Shape
from vitedge.sentences import some

WITHOUT_FLOAT32_GEMM: Mapping[str, frozenset[str]] = {"tensorrt-rtx": frozenset({"SM75"})}
"""Builder to the compute capabilities for which it compiles no GEMM of float32 values. Found by building: the compiler
looks at the types in the file, so that a quantized product between float32 values and one of two weights are refused
like any other."""
NO_DRIVER = "cudaError 35"
"""In an error that follows every failing call where there is no driver, and that says nothing of the cause."""
_GEMMS = ("MatMul", "Gemm", "Einsum")


def check_file(request: EngineRequest, builder: str) -> OnnxGraph:
    """Checks a file before it is built; returns its graph.

    Args:
        request: what is to be built.
        builder: a key of `vitedge.export.tensorrt.building.BUILDERS`.

    Raises:
        UnreadableArtifact: it is no ONNX model, is not whole, or would bring the builder down.
        BadRecipe: the shapes do not fit its inputs, or its opset is newer than was allowed.
        CheckFailed: it cannot be built for a target, with the module and the reason.
    """
    graph = OnnxGraph(_load(request.onnx))
    for find in CHECKS:
        find(graph, request)
    refused = sorted(WITHOUT_FLOAT32_GEMM.get(builder, frozenset()) & set(request.targets))
    found = float32_gemms(graph) if refused else ()
    if found:
        modules = some(dict.fromkeys(_told(node) for node in found))
        raise CheckFailed(
            f"{request.onnx} cannot be built for {refused[0]}: float32 GEMM is not supported there, and it "
            f"has one in {modules}; export it with half precision throughout, or name a profile whose GPUs, listed by "
            f"vitedge profiles, are without {refused[0]}: these are {', '.join(request.targets)}."
        )
    return graph


def float32_gemms(graph: OnnxGraph) -> tuple[NodeProto, ...]:
    """Returns the products of matrices whose result is float32 in the file, be they quantized or of two weights."""
    return tuple(node for node in graph.of(*_GEMMS) if graph.type_of(node.output[0]).kind == "fp32")


def parser_sentence(path: Path, description: str, node: str, operator: str) -> str:
    """Returns a refusal of TensorRT's parser as a sentence.

    Args:
        path: the ONNX file.
        description: the parser's own text.
        node: name of the node; empty where the refusal is of the file.
        operator: of the node.
    """
    return f"{path} cannot be read by TensorRT's parser: {_place(node, operator)}: {_reason(description)}."


def compiler_sentence(path: Path, message: str) -> str:
    """Returns an error of TensorRT's compiler as a sentence, with the module where it names a node."""
    match = re.search(
        r"Cannot compile operation '(?P<node>.+?)(_U\d+)?' for (?P<target>.+?): (?P<reason>.+?)\.? In ", message
    )
    if match is None:
        return f"{path} cannot be built: {_reason(message)}."
    return f"{path} cannot be built for {match['target']}: {_place(match['node'])}: {match['reason']}."


def _load(path: Path) -> ModelProto:
    if not path.is_file():
        raise UnreadableArtifact(f"There is no file {path}.")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        raise UnreadableArtifact(f"{path} is not an ONNX model, or is cut short.") from error
    if not model.graph.output:
        raise UnreadableArtifact(f"{path} is not an ONNX model: it has no outputs.")
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            _check_beside(path, tensor)
    onnx.load_external_data_for_model(model, str(path.parent))
    return model


def _check_beside(path: Path, tensor: TensorProto) -> None:
    """Checks that a weight's file lies beside the model and holds the whole of it."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    name = entries.get("location", "")
    beside = path.parent / name
    if not name or not beside.resolve().is_relative_to(path.parent.resolve()):
        raise UnreadableArtifact(f"{path} keeps {tensor.name} in {name or 'no file'}, which is outside its folder.")
    if not beside.is_file():
        raise UnreadableArtifact(f"{path} keeps {tensor.name} in {name}, which is not beside it.")
    end = int(entries.get("offset", 0)) + int(entries.get("length", 0))
    if beside.stat().st_size < end:
        raise UnreadableArtifact(f"{beside} is cut short: {tensor.name} ends at byte {end}.")


def _check_opset(graph: OnnxGraph, request: EngineRequest) -> None:
    opset = opset_of(graph.model)
    if request.newest_opset is not None and opset > request.newest_opset:
        raise BadRecipe(
            f"{request.onnx} has opset {opset}, and {request.newest_opset} is the newest that was allowed; "
            f"export it with --opset {request.newest_opset}."
        )


def _check_attention(graph: OnnxGraph, request: EngineRequest) -> None:
    """Refuses an Attention of one tensor: TensorRT-RTX 1.7 ends with a segmentation fault while it compiles it."""
    for node in graph.of("Attention"):
        if len(node.input) >= 3 and len(set(node.input[:3])) == 1:
            raise UnreadableArtifact(
                f"{request.onnx} cannot be built: the Attention of {_told(node)} reads one tensor as query, key and "
                "value, which ends the builder; give it three."
            )


def _check_shapes(graph: OnnxGraph, request: EngineRequest) -> None:
    declared = {value.name: _sides(value) for value in graph.inputs()}
    for name in request.shapes:
        if name not in declared:
            raise BadRecipe(f"{request.onnx} has no input {name}; it has {some(declared)}.")
    for name, sides in declared.items():
        dynamic = any(isinstance(side, str) for side in sides)
        if dynamic and name not in request.shapes:
            raise BadRecipe(
                f"The input {name} of {request.onnx} has the shape ({', '.join(map(str, sides))}): "
                "an engine needs its smallest, usual and largest shape."
            )
        if name in request.shapes and not _fit(sides, request.shapes[name]):
            raise BadRecipe(
                f"The shapes {some(map(str, request.shapes[name]))} do not fit the input {name} of {request.onnx}, "
                f"which is ({', '.join(map(str, sides))}): smallest, usual and largest have to follow each other."
            )


def _sides(value: ValueInfoProto) -> tuple[int | str, ...]:
    return tuple(
        side.dim_value if side.HasField("dim_value") else side.dim_param or "?"
        for side in value.type.tensor_type.shape.dim
    )


def _fit(sides: tuple[int | str, ...], shapes: tuple[Shape, Shape, Shape]) -> bool:
    if any(len(shape) != len(sides) for shape in shapes):
        return False
    return all(
        0 < low <= usual <= high and (isinstance(side, str) or low == high == side)
        for side, low, usual, high in zip(sides, *shapes, strict=True)
    )


CHECKS: tuple[Callable[[OnnxGraph, EngineRequest], None], ...] = (_check_opset, _check_attention, _check_shapes)
"""What is looked for in every file, whatever the builder."""

_REASONS: Mapping[str, str] = {
    "Non-zero zero point": "its zero point has to be 0",
    "Scale coefficients must all be positive": "its scales have to be above 0",
    "Plugin not found": "there is no such operator, and no plugin for it",
    "no optimization profile has been defined": "an input has a dynamic axis, and no shapes were given for it",
}
"""A part of a message of TensorRT to the reason in our words."""
_FORMS = (
    re.compile(r"Assertion failed: .*?: (?P<reason>[^:]+)$"),
    re.compile(r'&& "(?P<reason>[^"]+)"'),
    re.compile(r"Error Code \d+: [\w ]+\((?:\[[^\]]*\] )?(?:[^ ]+: )?(?P<reason>.+?)\.? In \w+ at /"),
)
"""Messages of TensorRT: with a condition of its code, quoted beside one, and with the place in its code."""


def _reason(message: str) -> str:
    """Returns the reason in a message of TensorRT, without conditions and places of its code."""
    known = next((reason for part, reason in _REASONS.items() if part in message), "")
    if known:
        return known
    lines = [line for line in message.splitlines() if line.strip() and NO_DRIVER not in line]
    for line in reversed(lines):
        match = next((found for form in _FORMS if (found := form.search(line))), None)
        if match is not None:
            return match["reason"].strip().rstrip(".")
    text = lines[-1].strip().rstrip(".") if lines else ""
    return "the operator is not supported" if text in ("", "false") else text


def _place(node: str, operator: str = "") -> str:
    """Returns the module and the node, or as much of that as is known."""
    module, slash, _ = node.partition("/")
    if slash:
        return f"{module} ({node})"
    return f"{node} ({operator})" if node and operator else node or operator or "the file"


def _told(node: NodeProto) -> str:
    return module_of(node) or name_of(node)
