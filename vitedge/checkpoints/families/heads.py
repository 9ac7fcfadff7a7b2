# SPDX-License-Identifier: Apache-2.0
"""Numbers of attention heads that the user or a configuration tells."""

from __future__ import annotations

from collections.abc import Sequence

from vitedge.checkpoints.families.family import Hints
from vitedge.errors import BadRecipe, UnknownArchitecture
from vitedge.records import Origin
from vitedge.sentences import abridged

_KEYS = ("head_width", "num_heads", "heads", "num_attention_heads")
"""Keys of heads as configurations write them; the last is the one that families read."""


def told_heads(hints: Hints, widths: Sequence[int]) -> tuple[tuple[int, ...], Origin] | None:
    """Returns the heads of each stage as the user or a configuration tells them, or None.

    Args:
        hints: ``overrides["heads"]``, ``num_attention_heads`` or ``num_heads``: a number for all stages, or one each.
        widths: of the stages; each is shared evenly by its heads.

    Raises:
        BadRecipe: the user's numbers do not fit the widths.
        UnknownArchitecture: a configuration's numbers do not.
    """
    named, origin = hints.overrides.get("heads"), Origin.GIVEN
    if named is None:
        named, origin = hints.config.get("num_attention_heads") or hints.config.get("num_heads"), Origin.CONFIG
    if not named:
        return None
    heads = tuple(int(count) for count in (named if isinstance(named, (tuple, list)) else (named,)))
    if len(heads) == 1:
        heads *= len(widths)
    if len(heads) != len(widths) or any(h < 1 or w % h for w, h in zip(widths, heads, strict=True)):
        kind = BadRecipe if origin is Origin.GIVEN else UnknownArchitecture
        key = next((key for key in _KEYS if hints.config.get(key)), "")
        told = f"The heads {_written(heads)} do not"
        if origin is Origin.CONFIG:
            told = f"The configuration says {key} = {abridged(hints.config[key])}, which does not"
        raise kind(f"{told} fit the widths {_written(widths)}: give one divisor of each width with --set heads=.")
    return heads, origin


def _written(values: Sequence[int]) -> str:
    return "-".join(str(value) for value in values)
