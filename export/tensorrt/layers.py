# SPDX-License-Identifier: Apache-2.0
"""The kernels of an engine, as TensorRT-RTX lists them in the verbose log of a build.

The list is one message that starts with ``Layers:``. It is a log, not an interface: a list that is absent, or that has
a line of another form than version 1.7 writes, gives None, which means that the kernels are not known.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from vitedge.records import EngineLayer

_HEADING = "Layers:"
_LINE = re.compile(
    r"Name: (?P<name>.*), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], Constants: \[(?P<constants>.*?)\], "
    r"Outputs: \[(?P<outputs>.*?)\], TacticName: .*?, StreamId: \d+, Metadata: (?P<metadata>.*)"
)
_TENSOR = re.compile(r"\{ Name: .*?, Dimensions: \[(?P<sides>[-\d,]*)\], .*?Datatype: (?P<type>\w+), Format: .*? \}")
_NODE = re.compile(r"\[ONNX Layer: (.*?)\]")
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
    for line in lists[0].splitlines()[1:]:
        if not line.strip():  # the inputs and outputs of the engine follow
            break
        match = _LINE.fullmatch(line)
        if match is None:
            return None
        layers.append(_layer(match))
    return tuple(layers) or None


def _layer(match: re.Match[str]) -> EngineLayer:
    return EngineLayer(
        name=match["name"],
        kind=match["kind"],
        inputs=_types(match["inputs"]),
        constants=_types(match["constants"], scalars=False),
        outputs=_types(match["outputs"]),
        nodes=tuple(_NODE.findall(match["metadata"])),
    )


def _types(tensors: str, *, scalars: bool = True) -> tuple[str, ...]:
    """Returns the element types of a list of tensors, without those of one element where they are not wanted.

    The constants of a product hold its weights, and as scalars the factors alpha and beta of a GEMM, always in float32.
    """
    found = [
        (math.prod(int(side) for side in match["sides"].split(",") if side), match["type"])
        for match in _TENSOR.finditer(tensors)
    ]
    return tuple(_TYPES.get(name, name.lower()) for size, name in found if scalars or size != 1)
