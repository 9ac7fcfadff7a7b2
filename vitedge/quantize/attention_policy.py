# SPDX-License-Identifier: Apache-2.0
"""Which attentions have both of their products quantized: where the target gains from it and the softmax survives it.

An attention is quantized whole (queries, keys, probabilities, values and the projection's input) or not at all:
TensorRT fuses no half (its developer's guide, "fused attention").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from vitedge.quantize.structure import Attention

TARGETS: Mapping[str, str] = {
    "tensorrt": "",
    "onnxruntime": "on a processor these products are some 5 % of the time",
    "coreml": "Core ML computes products of two activations in float",
}
"""Target to why it gains nothing from quantized attention, or empty."""
_HEAD_SIZES = (16, 32, 64)
"""Those that TensorRT's int8 attention takes (developer's guide, "fused attention")."""
_MOST_TOKENS = 512
_LEVELS = 127
_LEVELS_A_TOKEN = 4
"""A token that gets fewer is rounded away or doubled; 8-bit attention is known to hold at that."""


def decide(
    attentions: Sequence[Attention],
    attended: Mapping[str, float],
    target: str,
    asked: str = "auto",
    given: Mapping[str, str] | None = None,
) -> dict[str, tuple[bool, str]]:
    """Decides for every attention.

    Args:
        attentions: of a structure.
        attended: attention to the number of tokens that its rows effectively attend to, as
            `vitedge.quantize.diagnostics.measure_attended` finds it; one that is missing is taken to attend to all.
        target: one of `TARGETS`.
        asked: ``auto`` goes by the rules, ``all`` quantizes whatever the target's attention takes, ``none`` nothing.
        given: name of an attention or pattern to a scheme, before all else: ``float``, or for a name ``int8``.

    Returns:
        Attention to whether its products are quantized, and the reason as one phrase.
    """
    return {
        attention.name: _overridden(attention.name, given or {})
        or _decided(attention, attended.get(attention.name, float(attention.tokens)), target, asked)
        for attention in attentions
    }


def _overridden(name: str, given: Mapping[str, str]) -> tuple[bool, str] | None:
    """What the user says of one attention; a pattern that asks for integers means the layers below it."""
    if given.get(name) in ("float", "int8"):
        return given[name] == "int8", "asked for by name"
    patterns = [pattern for pattern, scheme in given.items() if scheme == "float" and fnmatchcase(name, pattern)]
    return (False, f"float asked for by {patterns[0]}") if patterns else None


def _decided(attention: Attention, attended: float, target: str, asked: str) -> tuple[bool, str]:
    if asked == "none":
        return False, "no attention was asked for"
    limit = _limit(attention) if target == "tensorrt" else ""
    if limit:
        return False, limit
    if asked == "all":
        return True, "all attentions were asked for"
    if TARGETS[target]:
        return False, TARGETS[target]
    if attended > _LEVELS / _LEVELS_A_TOKEN:
        return False, (
            f"its rows spread over {attended:.0f} tokens, and {_LEVELS} levels carry {_LEVELS // _LEVELS_A_TOKEN}"
        )
    return True, f"TensorRT fuses it, and its rows spread over {attended:.0f} tokens only"


def _limit(attention: Attention) -> str:
    """Why TensorRT does not fuse an int8 attention, or empty."""
    if attention.tokens > _MOST_TOKENS:
        return f"{attention.tokens} tokens, and TensorRT fuses int8 attention up to {_MOST_TOKENS}"
    if attention.dim not in _HEAD_SIZES:
        sizes = ", ".join(map(str, _HEAD_SIZES))
        return f"heads of {attention.dim} channels, and TensorRT fuses int8 attention with {sizes}"
    if attention.masked:
        return "something is added to its scores, with which TensorRT does not fuse int8 attention"
    return ""
