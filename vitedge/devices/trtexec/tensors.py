# SPDX-License-Identifier: Apache-2.0
"""The inputs and outputs of an engine, as far as trtexec and the engine tell: its log has no types, its layers may."""

from __future__ import annotations

from collections.abc import Mapping

from vitedge.devices.trtexec.log import Log
from vitedge.records import TensorSpec

_TYPES: Mapping[str, str] = {
    "fp32": "float32",
    "fp16": "float16",
    "int64": "int64",
    "int32": "int32",
    "int8": "int8",
    "uint8": "uint8",
    "bool": "bool",
}
"""Element types of `vitedge.export.tensorrt.records.EngineLayer` to NumPy's names."""
_GUESSED = "float32"
"""The type of a tensor whose type is not told. A wrong one is found out: since 8.5 trtexec refuses inputs of another
size, and the outputs agree with no reference."""


def declared_by(
    log: Log, types: Mapping[str, str], *, is_dynamic: bool
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Returns the inputs and the outputs of an engine.

    Args:
        log: of a run.
        types: name of a tensor to its element type, as `vitedge.export.tensorrt.inspector.tensor_types` returns.
        is_dynamic: whether the first axis is a batch of any size.
    """

    def specs(shapes: Mapping[str, tuple[int, ...]]) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(name, ("batch", *sides[1:]) if is_dynamic else sides, _TYPES.get(types.get(name, ""), _GUESSED))
            for name, sides in shapes.items()
        )

    return specs(log.inputs), specs(log.outputs)
