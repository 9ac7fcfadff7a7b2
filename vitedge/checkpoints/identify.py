# SPDX-License-Identifier: Apache-2.0
"""Finding the family whose signature a checkpoint carries."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from vitedge.checkpoints.families.family import Converted, Family, Hints, Naming, State
from vitedge.checkpoints.files.unwrap import spellings
from vitedge.errors import UnknownArchitecture
from vitedge.sentences import some


class Identified(NamedTuple):
    """A family and naming whose signature fits, and the weights in timm's names."""

    family: Family
    naming: Naming
    converted: Converted


def identify(state: State, hints: Hints, families: Sequence[Family], where: str = "The checkpoint") -> Identified:
    """Finds the first naming whose signature fits, and converts the weights.

    The names are tried as they are before a wrapper's prefix is taken off, because some namings need theirs.

    Args:
        state: weights under the names of the file.
        hints: passed on to the converter.
        families: tried in order, the most specific first.
        where: the file, for messages.

    Raises:
        UnknownArchitecture: no signature fits; the message names the nearest and what does not fit.
        WeightsMismatch: from the converter.
    """
    tried = list(spellings(state))
    for spelling in tried:
        for family, naming in _namings(families):
            if not naming.missing(spelling):
                return Identified(family, naming, naming.convert(spelling, hints))
    raise UnknownArchitecture(f"{where} is of no architecture that vitedge reads: {_nearest(tried, families)}")


def _namings(families: Sequence[Family]) -> Iterable[tuple[Family, Naming]]:
    return ((family, naming) for family in families for naming in family.NAMINGS)


def _nearest(tried: Sequence[State], families: Sequence[Family]) -> str:
    scored = [
        (_score(naming, spelling), order, family, naming, spelling)
        for order, (family, naming) in enumerate(_namings(families))
        for spelling in tried
    ]
    _, _, family, naming, spelling = max(scored, key=lambda entry: (entry[0], -entry[1]))
    lacking = [_readable(pattern) for pattern in naming.missing(spelling)]
    return (
        f"the nearest is {family.TITLE} ({naming.name} naming), but no weight is called {' or '.join(lacking[:2])}; "
        f"the file has {some(spelling)}."
    )


def _score(naming: Naming, state: State) -> tuple[float, float]:
    """Returns the share of the signature that matches, and the share of its words that occur in any name."""
    matched = 1 - len(naming.missing(state)) / len(naming.signature)
    words = {word for pattern in naming.signature for word in re.findall(r"[a-z]{3,}", pattern)}
    known = {word for name in state for word in re.findall(r"[a-z]{3,}", name)}
    return matched, len(words & known) / max(len(words), 1)


def _readable(pattern: str) -> str:
    text = re.sub(r"\\d\+?", "0", pattern)
    text = re.sub(r"\([^()]*\)\?", "", text)
    return re.sub(r"\\(.)", r"\1", text)
