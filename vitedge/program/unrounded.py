# SPDX-License-Identifier: Apache-2.0
"""A quantized program without the rounding of its activations: the real numbers that it rounds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch.fx import Node

from vitedge.program.editor import Editor, duplicate
from vitedge.program.program import Program
from vitedge.program.qdq import CONSTANTS, DEQUANTIZE, DEQUANTIZE_TENSOR, QUANTIZE, QUANTIZE_TENSOR

ROUNDED = {DEQUANTIZE: QUANTIZE, DEQUANTIZE_TENSOR: QUANTIZE_TENSOR}
"""Operators that dequantize an activation, with a fixed range and one found at run time, to those that quantize it."""


def without_rounding(program: Program) -> Program:
    """Returns a program whose activations are not rounded and whose weights are the real numbers of their integers.

    Args:
        program: is left as it is, and returned as it is where nothing of it is quantized.
    """
    targets = {node.target for node in program.exported.graph.nodes if node.op == "call_function"}
    if targets.isdisjoint((DEQUANTIZE, *CONSTANTS)):
        return program
    exported = duplicate(program.exported)
    editor = Editor(exported)
    for node in editor.calls():
        source: Any = node.args[0] if node.args else None
        if node.target in ROUNDED and source.target is ROUNDED[node.target]:
            editor.replace(node, source.args[0])
        elif node.target in CONSTANTS and editor.name(source) is not None:
            editor.set(str(editor.name(source)), real_numbers(editor, node))
            editor.replace(node, source)
    editor.finish()
    return replace(program, exported=exported)


def real_numbers(editor: Editor, node: Node) -> torch.Tensor:
    """Returns the value of a node of `CONSTANTS`, float32."""
    arguments = (editor.tensor(argument) if isinstance(argument, Node) else argument for argument in node.args)
    result: torch.Tensor = node.target(*arguments)  # type: ignore[operator]
    return result
