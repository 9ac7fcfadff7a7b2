# SPDX-License-Identifier: Apache-2.0
"""The kernels of an engine, as TensorRT-RTX lists them in the verbose log of a build.

The list is one message that starts with ``Layers:``. It is a log, not an interface: a list that is absent, or that has
a line of another form than version 1.7 writes, gives None, which means that the kernels are not known.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from vitedge.export.tensorrt.records import EngineLayer

_HEADING = "Layers:"
_LINE = re.compile(
    r"Name: (?P<name>.*), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], Constants: \[(?P<constants>.*?)\], "
    r"Outputs: \[(?P<outputs>.*?)\], TacticName: .*?, StreamId: \d+(?:, EventId: \d+)?, Metadata: (?P<metadata>.*)"
)
_TENSOR = re.compile(r"Dimensions: \[(?P<sides>[-\d,]*)\], .*?Datatype: (?P<type>\w+), Format: ")
_NEXT_TENSOR = "{ Name: "
_NODE = "[ONNX Layer: "
_END_OF_NODE = r"\](?:__\w+)?"
"""The compiler adds what it made of a node, such as ``__gemm_from_conv1x1``."""
_NEXT_NODE = re.compile(rf"{_END_OF_NODE}\x1f?\[ONNX Layer: ")
"""Between two nodes, which a control character separates that terminals do not show."""
_LAST_NODE = re.compile(rf"{_END_OF_NODE}$")
_TYPES = {"Float": "fp32", "Half": "fp16"}
"""Names of element types in the log to those of the records; the others are written in lower case."""


def read_layers(messages: Iterable[str]) -> tuple[EngineLayer, ...] | None:
    """Returns the kernels that the messages of a build list; None where there is no such list, or another form of it.

    Args:
        messages: of the builder's log, in any number and order, each with its lines.
    """
    lists = [message for message in messages if message.startswith(_HEADING)]
    if len(lists) != 1:
        return None
    layers = []
    for line in lists[0].split("\n")[1:]:
        if not line.strip():  # the inputs and outputs of the engine follow
            break
        match = _LINE.fullmatch(line)
        layer = None if match is None else _layer(match)
        if layer is None:
            return None
        layers.append(layer)
    return tuple(layers) or None


def _layer(match: re.Match[str]) -> EngineLayer | None:
    inputs, constants, outputs = (_tensors(match[name]) for name in ("inputs", "constants", "outputs"))
    if inputs is None or constants is None or outputs is None:
        return None
    return EngineLayer(
        name=match["name"],
        kind=match["kind"],
        inputs=tuple(kind for kind, _ in inputs),
        # A product's constants are its weights, and as scalars the factors alpha and beta of a GEMM, always in float32.
        constants=tuple(kind for kind, size in constants if size != 1),
        outputs=tuple(kind for kind, _ in outputs),
        nodes=_nodes(match["metadata"]),
    )


def _nodes(metadata: str) -> tuple[str, ...]:
    if not metadata.startswith(_NODE):
        return ()
    return tuple(_NEXT_NODE.split(_LAST_NODE.sub("", metadata.removeprefix(_NODE))))


def _tensors(text: str) -> list[tuple[str, int]] | None:
    """Returns element type and number of elements of each tensor of a list; None where one has another form."""
    found = []
    for tensor in text.split(_NEXT_TENSOR)[1:]:
        match = _TENSOR.search(tensor)
        if match is None:
            return None
        sides = [int(side) for side in match["sides"].split(",") if side]
        found.append((_TYPES.get(match["type"], match["type"].lower()), math.prod(sides)))
    return found
