# SPDX-License-Identifier: Apache-2.0
"""The flags by which a weakly typed build of TensorRT, 8.5 to 10, is allowed the precisions of a file.

Without strong typing the builder computes in float32 unless a flag allows more. From 9 on the types of the file can be
all that counts, and 11 has no such flags.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx

from vitedge.errors import BadRecipe, UnreadableArtifact

FLAGS: Mapping[str, str] = {
    "FLOAT16": "FP16",
    "BFLOAT16": "BF16",
    "INT8": "INT8",
    "FLOAT8E4M3FN": "FP8",
    "INT4": "INT4",
}
"""ONNX's name of an element type to the name of the builder's flag."""


def flags_for(trt: ModuleType, path: Path) -> tuple[Any, ...]:
    """Returns the flags of the installed version that the element types of a file need.

    Args:
        trt: the package ``tensorrt``.
        path: the ONNX file; its external weights are not read.

    Raises:
        BadRecipe: the version has no such flag.
        UnreadableArtifact: the file is no ONNX file.
    """
    found = element_types(path)
    flags = []
    for dtype, name in FLAGS.items():
        if dtype in found:
            flag = getattr(trt.BuilderFlag, name, None)
            if flag is None:
                raise BadRecipe(
                    f"TensorRT {trt.__version__} has no BuilderFlag.{name}, which the types of {path} need."
                )
            flags.append(flag)
    return tuple(flags)


def element_types(path: Path) -> set[str]:
    """Returns ONNX's names of the element types of a file's inputs, weights and constants.

    Raises:
        UnreadableArtifact: the file is no ONNX file.
    """
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # protobuf's own, which it does not export under a stable name
        raise UnreadableArtifact(f"{path} is not an ONNX model, or is cut short.") from error
    return {onnx.TensorProto.DataType.Name(number) for number in _numbers(graph)}


def _numbers(graph: onnx.GraphProto) -> Iterator[int]:
    for tensor in graph.initializer:
        yield tensor.data_type
    for value in graph.input:
        yield value.type.tensor_type.elem_type
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t.data_type
            if node.op_type == "Cast" and attribute.name == "to":
                yield attribute.i
