# SPDX-License-Identifier: Apache-2.0
"""The protocol of a family of architectures, for reading its checkpoints.

Every family is one module beside this one with the same public names: ``NAME``, ``TITLE``, ``NAMINGS`` and ``infer``.
``FAMILIES`` in `vitedge.checkpoints.families.table` lists them. A foreign naming is converted to timm's names first, so
that `infer` and everything after it sees one spelling.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from vitedge.records import ModelSpec

State = dict[str, Tensor]
"""Weight names to tensors, which stay memory-mapped through all conversions where the file allows it."""


@dataclass(frozen=True)
class Hints:
    """Facts about a checkpoint from elsewhere than its weights."""

    config: Mapping[str, Any] = field(default_factory=dict)
    """``config.json`` of a Hugging Face folder, or timm's ``pretrained_cfg``; empty if there is none."""
    preprocessor: Mapping[str, Any] = field(default_factory=dict)
    """``preprocessor_config.json`` of a Hugging Face folder; empty if there is none."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Facts stated by the user: names of `ModelSpec` or `Preprocessing` fields to values of their types."""


@dataclass(frozen=True)
class Converted:
    """Weights in timm's names, and those dropped on purpose."""

    state: State
    dropped: Mapping[str, str] = field(default_factory=dict)
    """Name in the file to the reason, for heads and decoders that the family declares droppable."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Facts that only the foreign names and layouts tell, under the keys of a Hugging Face ``config.json``
    (``num_attention_heads``). They replace those of ``Hints.config`` before `Family.infer` is called."""


@dataclass(frozen=True)
class Naming:
    """A library's names for the weights of a family."""

    name: str
    """``timm``, ``huggingface``, ``google``, ``cvnets``, ``naver``, ``official``, ``mae``, …"""
    signature: tuple[str, ...]
    """Regular expressions; each has to match a whole weight name of the checkpoint."""
    convert: Callable[[State, Hints], Converted]
    """Renames, splits, joins and transposes weights into timm's. Raises WeightsMismatch for what it cannot place."""
    is_last: bool = False
    """Whether it is tried only where no other naming fits, and no other network is known to have such names."""

    def missing(self, keys: Iterable[str]) -> tuple[str, ...]:
        """Returns the expressions of the signature that no weight name matches; none when the naming fits."""
        names = list(keys)
        return tuple(pattern for pattern in self.signature if not any(re.fullmatch(pattern, name) for name in names))


class Family(Protocol):
    """The public names of a family's module; a type checker ignores ``self`` for a module."""

    NAME: str
    """Value of `ModelSpec.family`, and key of `vitedge.models.reference.BUILDERS`."""
    TITLE: str
    """Name in messages, such as ``MobileViT v1``."""

    @property
    def NAMINGS(self) -> tuple[Naming, ...]:  # noqa: N802 - a constant of the module, of which this is only the type
        """The namings, tried in order: the most specific signature first."""
        ...

    def infer(self, state: State, naming: str, hints: Hints) -> ModelSpec:
        """Infers the spec: from the weights, then from the configuration, then from the family's table.

        Args:
            state: weights in timm's names.
            naming: the `Naming.name` they were found in; some defaults (LayerNorm eps, channel order) follow from it.
            hints: configuration and the user's overrides.

        Raises:
            UnknownArchitecture: shapes that no member of the family has, or a fact that must be given by the user.
        """
        ...
