# SPDX-License-Identifier: Apache-2.0
"""Conversion by coremltools: a prepared graph to an ML Program, and that to the message that a package holds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from vitedge.errors import BadRecipe, CheckFailed
from vitedge.export.coreml.graph import CoreMLGraph
from vitedge.export.coreml.quantized import ACTIVATIONS
from vitedge.mlprogram.limits import MAX_RANK
from vitedge.records import TensorSpec

PROBABILITIES = "probabilities"
_LAYOUTS = {1: "GRAYSCALE", 3: "RGB"}

DEFAULT_TARGET = "iOS17"
OLDEST_TARGET = "iOS16"


@dataclass(frozen=True)
class Settings:
    """Options of one conversion."""

    target: Any
    """Member of ``coremltools.target``."""
    half: bool
    """Compute in fp16, but for the nodes in ``float32_nodes``."""
    float32_nodes: frozenset[str]
    """Names of the nodes that stay in fp32."""
    image: bool
    """Whether the input is an image of Core ML, not a multi-array."""
    labels: tuple[str, ...] = ()
    """Names of the classes of a classifier, or empty."""


def is_image(spec: TensorSpec) -> bool:
    """Returns whether Core ML can take this input as an image: one at a time, RGB or grey, 0 to 255."""
    return spec.dtype == "uint8" and spec.shape[0] == 1 and spec.shape[1] in _LAYOUTS


def to_mil(ct: Any, graph: CoreMLGraph, image: TensorSpec, outputs: tuple[str, ...], settings: Settings) -> Any:
    """Converts a graph to an ML Program and optimizes it.

    Returns:
        ``coremltools.converters.mil.Program`` with float32 outputs of those names.

    Raises:
        CheckFailed: it has a tensor of a rank that Core ML cannot take.
    """
    arguments: dict[str, Any] = {"name": image.name, "shape": image.shape}
    if settings.image:
        layout = getattr(ct.colorlayout, _LAYOUTS[int(image.shape[1])])
        input_type = ct.ImageType(color_layout=layout, scale=1.0, bias=[0.0] * int(image.shape[1]), **arguments)
    else:
        input_type = ct.TensorType(dtype=np.float32, **arguments)
    program = ct.convert(
        graph.exported,
        convert_to="milinternal",
        minimum_deployment_target=settings.target,
        compute_precision=_precision(ct, settings),
        inputs=[input_type],
        # Named and typed here: the default of an fp16 program would be outputs that are rounded to fp16.
        outputs=[ct.TensorType(name=name, dtype=np.float32) for name in outputs],
    )
    _check_ranks(program, graph)
    _name_after_modules(program, graph)
    return program


def to_model(ct: Any, program: Any, settings: Settings) -> Any:
    """Serializes an ML Program.

    Returns:
        ``coremltools.models.MLModel`` that is not loaded; it lies in a temporary folder that dies with the process.
    """
    classifier = None
    if settings.labels:
        # coremltools indexes the types of the outputs by position, which a classifier shifts; they are in the values.
        program.functions["main"].output_types = None
        classifier = ct.ClassifierConfig(list(settings.labels), predicted_probabilities_output=PROBABILITIES)
    return ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=settings.target,
        compute_precision=ct.precision.FLOAT32,  # what is fp16 already is; this adds no casts
        pass_pipeline=ct.PassPipeline.EMPTY,
        classifier_config=classifier,
        skip_model_load=True,
    )


def values_of(program: Any, graph: CoreMLGraph, nodes: dict[str, str]) -> dict[str, str]:
    """Finds the values of an ML Program that equal those of nodes.

    Args:
        program: the ML Program.
        graph: what it was made of.
        nodes: any key to the name of a node.

    Returns:
        The key to the name of the value that equals the node's; without those that an optimization removed.
    """
    last: dict[str, Any] = {}
    for operation in program.functions["main"].operations:
        if operation.op_type not in ("const", "cast", "classify"):
            last[origin(operation)] = operation
    shapes = {node.name: _shape(node.meta.get("val")) for node in graph.exported.graph.nodes}
    found = {}
    for key, node in nodes.items():
        value = last[node].outputs[0] if node in last else None
        if value is not None and tuple(value.shape) == shapes[node]:
            found[key] = str(value.name)
    return found


def _shape(value: Any) -> tuple[int, ...]:
    """Returns the shape of a node's value; of the first where it returns several."""
    value = value[0] if isinstance(value, (tuple, list)) else value
    return tuple(getattr(value, "shape", ()))


def origin(operation: Any) -> str:
    """Returns the name of the node that an operation was converted from; empty for a constant."""
    traces = [data for source, data in operation.scopes.items() if source.name == "EXIR_STACK_TRACE"]
    return str(traces[0][-1] or "") if traces and traces[0] else ""


def _precision(ct: Any, settings: Settings) -> Any:
    if not settings.half:
        return ct.precision.FLOAT32
    return ct.transform.FP16ComputePrecision(
        op_selector=lambda operation: origin(operation) not in settings.float32_nodes
    )


def _name_after_modules(program: Any, graph: CoreMLGraph) -> None:
    """Names the values of new operations after the nodes that they were converted from.

    Names are all that a package keeps of where a value came from.
    """
    main = program.functions["main"]
    kept = {value.name for value in main.outputs}
    taken = {value.name for operation in main.operations for value in operation.outputs} | {*main.inputs}
    for operation in main.operations:
        node = origin(operation)
        if operation.op_type in ("const", "cast") or not graph.modules.get(node):
            continue
        for index, value in enumerate(operation.outputs):
            if value.name in kept or value.name == node or value.name.startswith(f"{node}_"):
                continue
            base = _base(node, operation.op_type)
            base += "_cast_fp16" if "_cast_fp16" in value.name else ""
            base += f"_{index}" if len(operation.outputs) > 1 else ""
            value.name = next(name for name in _numbered(base) if name not in taken)
            taken.add(value.name)
            if len(operation.outputs) == 1:
                operation.name = value.name


def _base(node: str, kind: str) -> str:
    """Returns the name of an operation of that kind which was converted from a node."""
    if kind in ACTIVATIONS.values():
        # Rewritten by coremltools they lose their names; both of a pair then come from the node that dequantizes.
        return re.sub(r"_(?:de)?quantize(_\d+)?$", rf"_{kind}\1", node)
    return node if node.endswith(f"_{kind}") else f"{node}_{kind}"


def _numbered(base: str) -> Iterator[str]:
    yield base
    yield from (f"{base}_{number}" for number in count(1))


def _check_ranks(program: Any, graph: CoreMLGraph) -> None:
    for operation in program.functions["main"].operations:
        for value in operation.outputs:
            if value.shape is not None and len(value.shape) > MAX_RANK:
                module = graph.modules.get(origin(operation), "")
                raise CheckFailed(
                    f"Core ML takes tensors of rank {MAX_RANK} at most, but {operation.op_type} in module "
                    f"{module or '(root)'} makes {value.name} of shape {tuple(value.shape)}."
                )


def deployment_target(ct: Any, name: str | None) -> Any:
    """Returns the member of ``coremltools.target`` of a name, ``iOS…`` or ``macOS…`` in any case; None is iOS17.

    Raises:
        BadRecipe: there is none, or it is older than ML Programs as they are written here.
    """
    oldest = ct.target[OLDEST_TARGET]
    choices = {
        key.lower(): key
        for key, member in ct.target.__members__.items()
        if member >= oldest and key.startswith(("iOS", "macOS"))
    }
    wanted = (DEFAULT_TARGET if name is None else name).lower()
    if wanted not in choices:
        raise BadRecipe(f"There is no --coreml-target {name}; choose from {', '.join(choices.values())}.")
    return ct.target[choices[wanted]]
