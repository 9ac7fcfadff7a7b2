# SPDX-License-Identifier: Apache-2.0
"""What each step of pruning says that it did."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Merging:
    """Tokens that merge, for every block that runs over tokens, in order of execution."""

    schedule: tuple[int, ...]
    """Tokens that a block merges into others."""
    tokens: tuple[int, ...]
    """Tokens after the block's merging, prefix tokens included; each stage of PiT starts with all of its own."""
