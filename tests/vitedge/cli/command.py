# SPDX-License-Identifier: Apache-2.0
"""The outcome of a command in this process: its exit code, its result and the one sentence it says of a failure."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """Lines on stderr that are no progress."""
        progress = ("calibrati", "note: ")
        told = [line for line in self.err.splitlines() if not line.endswith(" …") and not line.startswith(progress)]
        assert len(told) <= 1, self.err
        return told[0] if told else ""


Command = Callable[..., Outcome]


def check_refusal(outcome: Outcome, *words: str, code: int = 2) -> None:
    """One sentence with those words on stderr, nothing on stdout."""
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    assert outcome.sentence.startswith("vitedge: ")
    for word in words:
        assert word in outcome.sentence
