# SPDX-License-Identifier: Apache-2.0
"""Prepares a quantized program for Core ML: forms that Core ML or coremltools do not have.

coremltools turns ``quantized_decomposed`` into what Core ML has: activations into ``quantize`` and ``dequantize``, and
integer constants into ``constexpr_affine_dequantize`` or, from iOS18 on, ``constexpr_blockwise_shift_scale``, which a
device expands while it loads or computes with as they are. What is left to do here: biases, whose int32 no constant of
Core ML can be made of, zero points, which have to be of the type of the integers, and weights in blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.fx import Node

from vitedge.errors import BadRecipe
from vitedge.program.editor import Editor
from vitedge.program.program import Program
from vitedge.program.qdq import (
    CHOOSE,
    CONSTANTS,
    DEQUANTIZE,
    DEQUANTIZE_BLOCKS,
    DEQUANTIZE_CHANNELS,
    DEQUANTIZE_TENSOR,
    QUANTIZE,
    QUANTIZE_TENSOR,
)
from vitedge.program.unrounded import real_numbers

ACTIVATIONS: Mapping[Any, str] = {QUANTIZE: "quantize", DEQUANTIZE: "dequantize"}
"""Operators to the operations of Core ML that they become."""
BYTES = (torch.int8, torch.uint8)
"""Integer types that Core ML can hold and quantize to, besides int4."""
_FOUR_BITS = 16
"""Levels of an int4."""


def check_forms(ct: Any, program: Program, target: Any) -> None:
    """Refuses a program that the operation set of a deployment target cannot express.

    Args:
        ct: coremltools.
        program: quantized or not.
        target: member of ``coremltools.target``.

    Raises:
        BadRecipe: with the option that mends it.
    """
    for node in _calls(program.exported):
        if node.target in (CHOOSE, QUANTIZE_TENSOR, DEQUANTIZE_TENSOR):
            raise BadRecipe(
                "Core ML cannot choose the scales of activations while it runs: use int8, or w8 for the weights alone."
            )
        if node.target is QUANTIZE and node.args[-1] not in BYTES:
            kind = str(node.args[-1]).removeprefix("torch.")
            raise BadRecipe(
                f"Core ML has no {kind} activations: for more than 8 bits use w8, whose activations are floating point."
            )
        if node.target is QUANTIZE and target < ct.target.iOS17:
            raise BadRecipe(f"Core ML has int8 activations from --coreml-target iOS17 on, not on {target.name}.")
        if _has_blocks_or_nibbles(node) and target < ct.target.iOS18:
            raise BadRecipe(
                f"Core ML has weights in 4 bits or in blocks from --coreml-target iOS18 on, not on {target.name}."
            )


def _has_blocks_or_nibbles(node: Node) -> bool:
    """Returns whether a node dequantizes integers of four bits, or integers that share scales in blocks."""
    if node.target is not DEQUANTIZE_CHANNELS:
        return node.target is DEQUANTIZE_BLOCKS
    arguments: Any = node.args
    return bool(arguments[5] - arguments[4] < _FOUR_BITS)


def write_constants(exported: ExportedProgram) -> None:
    """Stores the integers of a program in forms that Core ML can hold; the results stay the same, bit for bit.

    A bias in int32 becomes the real numbers that it stands for: an operation adds it in floating point, and there is
    no compressed constant of that type. Zero points of zero get the type of the integers.

    Args:
        exported: a copy of which the tensors may be replaced by name.
    """
    editor = Editor(exported)
    nodes = [node for node in editor.calls() if node.target in CONSTANTS]
    if not nodes:
        return
    for node in nodes:
        arguments: Any = node.args
        integers, _, zero_point, *_ = arguments
        name, held = editor.name(integers), editor.tensor(integers)
        zeros = editor.tensor(zero_point)
        if name is None or held is None or zeros is None:
            continue
        if held.dtype not in BYTES:
            editor.set(name, real_numbers(editor, node))
            editor.replace(node, integers)
        elif not zeros.any():
            editor.set(str(editor.name(zero_point)), zeros.to(held.dtype))
    editor.finish()


@cache
def add_conversions(ct: Any) -> None:
    """Registers a conversion of weights in blocks with coremltools, which has none.

    Args:
        ct: coremltools, which keeps one table of conversions for the process.
    """
    mil = ct.converters.mil.mil

    def dequantize_per_channel_group(context: Any, node: Any) -> None:
        integers, scale, zero_point = (context[name] for name in node.inputs[:3])
        low, high = node.inputs[3:5]
        four = int(high) - int(low) < _FOUR_BITS
        dtype = mil.types.nptype_from_builtin(mil.types.int4 if four else mil.types.int8)
        offset = {"offset": zero_point.val.astype(dtype)} if np.any(zero_point.val) else {}
        data = integers.val.astype(dtype)
        constant = mil.Builder.constexpr_blockwise_shift_scale(data=data, scale=scale.val, name=node.name, **offset)
        context.add(constant)

    name = "quantized_decomposed{}dequantize_per_channel_group"
    register = ct.converters.mil.frontend.torch.torch_op_registry.register_torch_op
    register(torch_alias=[name.format("::"), name.format(".")], override=True)(dequantize_per_channel_group)


def _calls(exported: ExportedProgram) -> list[Node]:
    return [node for node in exported.graph.nodes if node.op == "call_function"]
