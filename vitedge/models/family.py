# SPDX-License-Identifier: Apache-2.0
"""The protocol of a family of architectures, for building its modules.

Every family is one module beside this one, named as in `vitedge.checkpoints`, with the same public names: ``build``,
``resize``, ``features`` and ``blocks``.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from vitedge.checkpoints.families.family import State
from vitedge.records import ModelSpec


class Builder(Protocol):
    """The public names of a family's module."""

    @staticmethod
    def build(spec: ModelSpec) -> nn.Module:
        """Builds the timm module of the spec, in evaluation mode, with unspecified weights, on torch's default device.

        Its ``state_dict`` has exactly the names and shapes that the family's converters produce. ``forward`` takes
        ``(batch, channels, height, width)`` float and returns the logits ``(batch, classes)`` (for a distilled model
        the mean of both heads).
        """
        ...

    @staticmethod
    def resize(state: State, spec: ModelSpec, image_size: tuple[int, int]) -> tuple[State, ModelSpec]:
        """Returns weights and spec of the same model at another image size, in pixels (height, width).

        Raises:
            ImpossibleSize: with the sizes that can work.
        """
        ...

    @staticmethod
    def features(module: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the last feature tokens or map, and the pooled features ``(batch, width)``, the input of the head.

        Tokens are ``(batch, tokens, width)`` with prefix tokens first, after the final norm; where the family ends in a
        map (PiT, Swin, MobileViT) it is ``(batch, channels, height, width)``.
        """
        ...

    @staticmethod
    def blocks(spec: ModelSpec) -> tuple[str, ...]:
        """Returns, in order of execution, names of modules, whose (first) output tensors artifacts are compared at."""
        ...
