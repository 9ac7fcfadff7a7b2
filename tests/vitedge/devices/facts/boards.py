# SPDX-License-Identifier: Apache-2.0
"""What boards printed, from the files in ``recorded``."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

from vitedge.devices.facts.reading import split

FOLDER = Path(__file__).with_name("recorded")
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.txt")))


def texts(name: str) -> Mapping[str, str]:
    return split((FOLDER / f"{name}.txt").read_text(encoding="utf-8"), "@@")


def garbled(text: str, seed: int) -> str:
    """Returns a text with a few bytes changed, cut and doubled."""
    draw = random.Random(seed)
    letters = list(text)
    for _ in range(1 + len(letters) // 40):
        place = draw.randrange(len(letters) + 1)
        letters[place : place + draw.choice((0, 1, 1, 30))] = draw.choice(
            ("", "\0", "9" * 400, "-", "[", "@", "%", "\n", "nan", "1e999", "²", "\ud7ff", "/", "{", letters[:50])
        )
    return "".join(letters)
