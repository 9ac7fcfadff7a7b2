# SPDX-License-Identifier: Apache-2.0
"""Decides which attentions multiply integers: where the target is faster with them and the softmax keeps its precision.

For TensorRT an attention is quantized whole (queries, keys, probabilities, values and the projection's input) or not at
all: it fuses no half (its developer's guide, "fused attention"). ONNX Runtime computes each product for itself, and of
a long attention only the scores are quantized: 255 levels represent queries and keys, but not probabilities of 1 in
730.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from vitedge.export.formats import QuantizedForm
from vitedge.program.structure import Attention

_HEAD_SIZES = (16, 32, 64)
"""Head sizes that TensorRT's int8 attention takes (developer's guide, "fused attention")."""
_MOST_TOKENS = 512
"""Largest number of tokens that it takes."""
SCORES = ("query", "key")
"""Operands of the first product."""
WHOLE = (*SCORES, "probabilities", "value")
"""Operands of both products."""
_ASKED = "all attentions were asked for"
_LEVELS = 127
"""Levels of int8 from 0 to 1."""
_LEVELS_A_TOKEN = 4
"""Fewest levels a token needs: with fewer its probability is rounded to zero or doubled."""


@dataclass(frozen=True)
class Decision:
    """The operands of an attention that are quantized, and the reason."""

    operands: tuple[str, ...]
    """Empty, `SCORES` or `WHOLE`."""
    reason: str
    """One phrase."""

    @property
    def precision(self) -> str:
        """``float``, ``int8 scores`` or ``int8``."""
        return {(): "float", SCORES: "int8 scores"}.get(self.operands, "int8")


def decide(
    attentions: Sequence[Attention],
    attended: Mapping[str, float],
    form: QuantizedForm,
    asked: str = "auto",
    overrides: Mapping[str, str] | None = None,
) -> dict[str, Decision]:
    """Decides which operands of every attention are quantized.

    Args:
        attentions: of a structure.
        attended: attention to the number of tokens that its rows effectively attend to, as
            `vitedge.quantization.diagnostics.measure_attended` finds it; a missing one counts as attending to all.
        form: the form of quantized program that the target takes; says whether its compiler fuses an int8 attention.
        asked: ``auto`` follows the rules, ``all`` quantizes whatever the target's attention takes, ``none`` nothing.
        overrides: name of an attention or pattern to a scheme, before all else: ``float``, or for a name ``int8``.

    Returns:
        Attention to the decision.
    """
    return {
        attention.name: _overridden(attention.name, overrides or {})
        or _decided(attention, attended.get(attention.name, float(attention.tokens)), form, asked)
        for attention in attentions
    }


def _overridden(name: str, overrides: Mapping[str, str]) -> Decision | None:
    """Returns the user's choice for one attention, if any; a pattern with an integer scheme means its layers alone."""
    if overrides.get(name) in ("float", "int8"):
        return Decision(WHOLE if overrides[name] == "int8" else (), "asked for by name")
    patterns = [pattern for pattern, scheme in overrides.items() if scheme == "float" and fnmatchcase(name, pattern)]
    return Decision((), f"float asked for by {patterns[0]}") if patterns else None


def _decided(attention: Attention, attended: float, form: QuantizedForm, asked: str) -> Decision:
    if asked == "none":
        return Decision((), "no attention was asked for")
    if not form.float_attention:
        return _fused(attention, attended, asked)
    if asked == "all":
        return Decision(WHOLE, _ASKED)
    if form.long_attention is not None and attention.tokens > form.long_attention:
        return Decision(SCORES, f"the scores of {attention.tokens} tokens take long")
    return Decision((), form.float_attention)


def _fused(attention: Attention, attended: float, asked: str) -> Decision:
    limit = _limit(attention)
    if limit:
        return Decision((), limit)
    if asked == "all":
        return Decision(WHOLE, _ASKED)
    if attended > _LEVELS / _LEVELS_A_TOKEN:
        most = _LEVELS // _LEVELS_A_TOKEN
        return Decision((), f"its rows spread over {attended:.0f} tokens, and {_LEVELS} levels suffice for {most}")
    return Decision(WHOLE, f"TensorRT fuses it, and its rows spread over {attended:.0f} tokens only")


def _limit(attention: Attention) -> str:
    """Returns why TensorRT does not fuse an int8 attention; empty where it does."""
    if attention.tokens > _MOST_TOKENS:
        return f"{attention.tokens} tokens, and TensorRT fuses int8 attention up to {_MOST_TOKENS}"
    if attention.dim not in _HEAD_SIZES:
        sizes = ", ".join(map(str, _HEAD_SIZES))
        return f"heads of {attention.dim} channels, and TensorRT fuses int8 attention with {sizes}"
    if attention.masked:
        return "something is added to its scores, with which TensorRT does not fuse int8 attention"
    return ""
