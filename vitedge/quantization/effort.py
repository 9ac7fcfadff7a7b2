# SPDX-License-Identifier: Apache-2.0
"""How far quantization goes: on how many images each of its measurements is made, and what is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from vitedge.recipe import Effort


@dataclass(frozen=True)
class Extent:
    """The extent of one effort."""

    calibrated: int | None
    """Most images that the ranges of activations are measured on; None is as many as the recipe says."""
    kept: int
    """Images on which biases are corrected, weights are rounded by GPTQ, and the simulation is compared."""
    diagnosed: int
    """Images over which layers and attentions are compared one by one; 0 leaves the comparison out."""
    learned: bool = False
    """Whether weights of eight bits are rounded by GPTQ too, as those of four bits always are."""

    def images(self, asked: int) -> int:
        """Returns how many images are drawn where a recipe asks for so many."""
        return asked if self.calibrated is None else min(asked, self.calibrated)

    def skipped(self, asked: int) -> tuple[str, ...]:
        """Returns what is left out, as phrases for the record."""
        found = []
        if self.images(asked) < asked:
            found.append(f"ranges of activations: {self.images(asked)} of {asked} images")
        if self.diagnosed == 0:
            found.append("the comparison of layers and attentions one by one")
        return tuple(found)


EXTENTS: Mapping[Effort, Extent] = MappingProxyType(
    {
        Effort.QUICK: Extent(calibrated=64, kept=16, diagnosed=0),
        Effort.DEFAULT: Extent(calibrated=None, kept=32, diagnosed=4),
        Effort.BEST: Extent(calibrated=None, kept=64, diagnosed=8, learned=True),
    }
)
"""Effort to its extent."""
