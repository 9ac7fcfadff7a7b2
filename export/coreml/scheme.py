# SPDX-License-Identifier: Apache-2.0
"""The quantization scheme of a Core ML package, read off its program. Needs no PyTorch."""

from __future__ import annotations

from collections.abc import Mapping

from vitedge.export.coreml.describe import PREFIX, SPARSE, stores_sparse
from vitedge.mlprogram import description
from vitedge.mlprogram.program import MLProgram
from vitedge.recipe import SCHEMES

COMPRESSED = "compressed"
"""Stands for weights that are stored in another form than those of vitedge's schemes."""
_INTEGERS = frozenset(
    ("constexpr_affine_dequantize", "constexpr_blockwise_shift_scale", "constexpr_sparse_blockwise_shift_scale")
)
_NIBBLES = frozenset(("int4", "uint4"))
_SCHEMES: Mapping[tuple[bool, bool], str] = {
    (False, True): "int8",
    (False, False): "w8",
    (True, True): "w4a8",
    (True, False): "w4",
}
"""Whether there are weights of four bits, and whether activations are quantized, to the scheme."""


ROUNDED = frozenset(scheme for (_, rounded), scheme in _SCHEMES.items() if rounded)
"""Schemes whose activations are quantized."""


def scheme_of(program: MLProgram) -> str:
    """Returns a key of `vitedge.recipe.SCHEMES`, ``compressed``, or an empty name where nothing is quantized.

    A package of vitedge declares its scheme, which may be ``mixed``; for others it is concluded from the operations.
    """
    kinds = {operation.kind for operation in program.operations}
    constants = {kind for kind in kinds if kind.startswith("constexpr_")}
    if stores_sparse(program):
        constants -= {SPARSE}  # the numbers are as the scheme has them
    if not constants and "quantize" not in kinds:
        return ""
    if not constants or constants - _INTEGERS:
        return COMPRESSED
    return _declared(program) or _SCHEMES[_has_nibbles(program), "quantize" in kinds]


def count_integers(program: MLProgram) -> tuple[int, int]:
    """Counts the weights that are stored as integers, and the activations that are rounded to integers."""
    kinds = [operation.kind for operation in program.operations]
    return sum(kind in _INTEGERS for kind in kinds), kinds.count("quantize")


def _declared(program: MLProgram) -> str:
    recipe = description.metadata(program.package, f"{PREFIX}recipe")
    precision = recipe.get("precision") if isinstance(recipe, dict) else None
    return precision if precision in SCHEMES else ""


def _has_nibbles(program: MLProgram) -> bool:
    types = {output.name: output.type.dtype for operation in program.operations for output in operation.outputs}
    quantized = [operation for operation in program.operations if operation.kind in _INTEGERS]
    named = (types[name] for operation in quantized for name in operation.reads())
    held = (literal.type.dtype for operation in quantized for literal in operation.literals())
    return not _NIBBLES.isdisjoint((*named, *held))
