# SPDX-License-Identifier: Apache-2.0
"""A model while it is pruned, and the images that show what it computes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.byobnet import BottleneckBlock
from torch import Tensor, nn

from vitedge.images.preprocess import normalize
from vitedge.models.blocks import transformer_blocks
from vitedge.models.cost import count_gmacs
from vitedge.models.reference import BUILDERS, Reference
from vitedge.records import ModelSpec, Preprocessing

BATCH = 8
"""Images that are computed at once."""


@dataclass(frozen=True)
class Batches:
    """Prepared images, given in normalized batches; every iteration gives the same ones."""

    pixels: NDArray[np.uint8]
    """``(images, channels, height, width)``, 0 to 255."""
    preprocessing: Preprocessing
    size: int = BATCH

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.pixels)

    @property
    def counts(self) -> list[int]:
        """Number of images of each batch."""
        return [min(self.size, len(self) - start) for start in range(0, len(self), self.size)]

    def first(self, count: int) -> Batches:
        """Returns the first images alone."""
        return replace(self, pixels=self.pixels[:count])

    def __iter__(self) -> Iterator[Tensor]:
        """Yields float32 tensors ``(images, channels, height, width)``."""
        for start in range(0, len(self.pixels), self.size):
            yield torch.from_numpy(normalize(self.pixels[start : start + self.size], self.preprocessing))


@dataclass
class Draft:
    """A copy of the dense model that the steps of pruning alter in place."""

    module: nn.Module
    dense: Reference
    """The model before; never altered."""
    images: Batches
    spec: ModelSpec
    """Of the module as it is now; `settle` brings it up to date."""

    @staticmethod
    def of(dense: Reference, images: Batches) -> Draft:
        """Returns a draft that is still the dense model."""
        return Draft(copy.deepcopy(dense.module), dense, images, dense.spec)

    @cached_property
    def gmacs(self) -> float:
        """Multiply-accumulates of one image in the dense model, in 10^9."""
        return count_gmacs(self.dense.spec)

    def outputs(self, batch: Tensor) -> Tensor:
        """Returns the logits of a batch, or the tokens of an encoder; ``(images, …)``."""
        if self.spec.classes:
            logits: Tensor = self.module(batch)
            return logits
        return BUILDERS[self.spec.family].features(self.module, batch)[0]  # type: ignore[no-any-return]

    def settle(self) -> None:
        """Writes the widths of the module's blocks into the spec."""
        blocks = tuple(block.widths for block in transformer_blocks(self.module))
        merged = [old.merge for old in self.spec.blocks] or [0] * len(blocks)
        found = tuple(replace(block, merge=merge) for block, merge in zip(blocks, merged, strict=True))
        options = {**self.spec.options}
        if "expansions" in options:
            options["expansions"] = _expansions(self.module, options["expansions"])
        self.spec = replace(self.spec, blocks=found, options=options)


def _expansions(module: nn.Module, stages: Sequence[Sequence[int]]) -> list[list[int]]:
    """Returns the channels inside of each inverted residual, stage by stage as the spec has them."""
    blocks: list[Any] = [part for part in module.modules() if isinstance(part, BottleneckBlock)]
    found = iter(blocks)
    return [[next(found).conv2_kxk.conv.out_channels for _ in stage] for stage in stages]
