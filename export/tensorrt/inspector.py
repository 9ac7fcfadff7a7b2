# SPDX-License-Identifier: Apache-2.0
"""Reads the JSON of TensorRT's engine inspector: the kernels of a built engine and their element types.

Two schemas. Up to 10 a tensor of a layer has one field, ``Format/Datatype``, with a phrase, and the engine lists the
names of its inputs and outputs as ``Bindings``; from 11 on the field is split into ``Format`` and ``Datatype``, and
``I/O Tensors`` holds records.

What was read, and nothing of it run here: ten files of TensorRT 8 in NVIDIA/TensorRT
(``tools/experimental/trt-engine-explorer``, tag v8.6.1), a printed layer of TensorRT 10
(``samples/sampleEditableTimingCache/README.md``), the names of fields that NVIDIA's analysis of layer information
looks for (``.agents/skills/trt-perf-analysis``, 11.1), the migration page from 10 to 11 in NVIDIA's documentation, and
names of regions and kernels in public logs of TensorRT 8 and 10. How a node of the ONNX file is named in ``Metadata``
was seen in the log of TensorRT for RTX 1.7.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from vitedge.export.tensorrt.records import EngineLayer

UNKNOWN = "unknown"
"""The element type of a tensor whose type is not told."""

_DTYPES: Mapping[str, str] = {
    "fp32": "fp32",
    "float": "fp32",
    "fp16": "fp16",
    "half": "fp16",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "fp8": "fp8",
    "fp4": "fp4",
    "int64": "int64",
    "int32": "int32",
    "int8": "int8",
    "int4": "int4",
    "uint8": "uint8",
    "bool": "bool",
}
"""TensorRT's words for element types, in lower case, to those of `EngineLayer`."""
_TYPE_FIELDS = ("Datatype", "DataType", "Format/Datatype")
_ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_COPY = "Reformatting CopyNode"
"""Beginning of the name of a layer of TensorRT 8 that only changes a layout or a type, for the layer named after it."""
_OPAQUE = "{ForeignNode["
"""Beginning of the name of a layer that stands for a whole region, on a DLA or in TensorRT 8, and hides its kernels."""
_KERNEL = re.compile(r"_myl\d+_\d+$")
"""End of the name of a kernel that TensorRT's compiler of regions made; those without a node begin with ``__myl``."""


def layers(text: str | None) -> tuple[EngineLayer, ...] | None:
    """Returns the kernels of an engine in the order of execution.

    Args:
        text: what `vitedge.export.tensorrt.classic.inspect` returns.

    Returns:
        The kernels; None where the text is not understood, tells names alone (the engine was not built with detailed
        verbosity), or holds a region whose kernels it does not tell: not known, and so never passed.
    """
    try:
        content = json.loads(text or "")
    except json.JSONDecodeError:
        return None
    records = content.get("Layers") if isinstance(content, dict) else None
    if not isinstance(records, list) or not records:
        return None
    found = [_layer(record) for record in records]
    return None if None in found else tuple(layer for layer in found if layer is not None)


def tensor_types(text: str | None) -> dict[str, str]:
    """Returns the element types of an engine's tensors by name, its inputs and outputs among them, as far as told.

    Args:
        text: as for `layers`.
    """
    try:
        content = json.loads(text or "")
    except json.JSONDecodeError:
        return {}
    listed = content.get("Layers") if isinstance(content, dict) else None
    if not isinstance(listed, list):
        return {}
    records = [record for record in listed if isinstance(record, dict)]
    groups = (record.get(key) for record in records for key in ("Inputs", "Outputs"))
    tensors = [
        tensor for group in (*groups, content.get("I/O Tensors")) if _are_tensors(group) for tensor in group or ()
    ]
    found = {str(tensor.get("Name")): _dtype(tensor) for tensor in tensors}
    return {name: kind for name, kind in found.items() if kind != UNKNOWN}


def _layer(record: Any) -> EngineLayer | None:
    """Returns one kernel; None where it is not told which types it has, or which kernels it stands for."""
    if not isinstance(record, dict) or not all(isinstance(record.get(key), str) for key in ("Name", "LayerType")):
        return None
    tensors = [record.get(key, []) for key in ("Inputs", "Constants", "Outputs")]
    if record["Name"].startswith(_OPAQUE) or not all(_are_tensors(group) for group in tensors) or not tensors[2]:
        return None
    inputs, constants, outputs = (tuple(_dtype(tensor) for tensor in group) for group in tensors)
    weights = record.get("Weights")
    if isinstance(weights, dict):  # the layers of TensorRT 8, whose biases have a field of their own
        constants = (*constants, _word(str(weights.get("Type", ""))))
    return EngineLayer(record["Name"], record["LayerType"], inputs, constants, outputs, _nodes(record))


def _are_tensors(group: Any) -> bool:
    return isinstance(group, list) and all(isinstance(tensor, dict) for tensor in group)


def _dtype(tensor: Mapping[str, Any]) -> str:
    return next((_word(str(tensor[key])) for key in _TYPE_FIELDS if key in tensor), UNKNOWN)


def _word(phrase: str) -> str:
    """Returns the element type in a phrase such as ``Channel major FP16 format where channel % 8 == 0``."""
    words = re.findall(r"[a-z0-9]+", phrase.lower())
    return next((_DTYPES[word] for word in words if word in _DTYPES), UNKNOWN)


def _nodes(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the ONNX nodes of a layer: those of its metadata, or the parts of its name where it has none."""
    metadata = record.get("Metadata")
    if record["Name"].startswith(_COPY):
        return ()
    if isinstance(metadata, str) and metadata:
        return tuple(dict.fromkeys(_ONNX_NODE.findall(metadata)))
    name, kernels = _KERNEL.subn("", record["Name"])
    if name.startswith("__myl"):
        return ()
    return tuple(dict.fromkeys(_unwrapped(name.split("+" if kernels else " + "))))


def _unwrapped(parts: Iterable[str]) -> Iterable[str]:
    """Yields the parts of a name without ``PWN(…)``, in which TensorRT 8 wraps pointwise nodes."""
    for part in parts:
        inner = re.fullmatch(r"PWN\((.*)\)", part.strip())
        yield from _unwrapped(inner[1].split(", ")) if inner else (part.strip(),)
