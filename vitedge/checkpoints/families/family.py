# SPDX-License-Identifier: Apache-2.0
"""What a family of architectures says about its checkpoints.

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
"""Weight names to tensors; on the way through the readers the tensors stay memory-mapped where the file allows it."""


@dataclass(frozen=True)
class Hints:
    """What is known about a checkpoint beside its weights."""

    config: Mapping[str, Any] = field(default_factory=dict)
    """``config.json`` of a Hugging Face folder, or timm's ``pretrained_cfg``; empty if there is none."""
    preprocessor: Mapping[str, Any] = field(default_factory=dict)
    """``preprocessor_config.json`` of a Hugging Face folder; empty if there is none."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """What the user said: names of `ModelSpec` or `Preprocessing` fields to values of their types."""


@dataclass(frozen=True)
class Converted:
    """Weights in timm's names, and what was left out on purpose."""

    state: State
    dropped: Mapping[str, str] = field(default_factory=dict)
    """Name in the file to the reason, for heads and decoders that the family declares droppable."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the foreign names tell and timm's do not, under the keys of a Hugging Face ``config.json``
    (``num_attention_heads``). The reader puts them over ``Hints.config`` before it calls `Family.infer`."""


@dataclass(frozen=True)
class Naming:
    """One library's spelling of a family's weights."""

    name: str
    """``timm``, ``huggingface``, ``google``, ``cvnets``, ``naver``, ``official``, ``mae``, …"""
    signature: tuple[str, ...]
    """Regular expressions; each has to match one whole key of the checkpoint."""
    convert: Callable[[State, Hints], Converted]
    """Renames, splits, joins and transposes into timm's names. Raises WeightsMismatch for what it cannot place."""

    def missing(self, keys: Iterable[str]) -> tuple[str, ...]:
        """The expressions of the signature that no key matches; empty when the naming fits."""
        names = list(keys)
        return tuple(pattern for pattern in self.signature if not any(re.fullmatch(pattern, name) for name in names))


class Family(Protocol):
    """The public names of a family's module; for a module a type checker leaves ``self`` out."""

    NAME: str
    """Key of the families' table, and the name of the module that builds it in `vitedge.models`."""
    TITLE: str
    """The name for people, such as ``MobileViT v1``."""

    @property
    def NAMINGS(self) -> tuple[Naming, ...]:  # noqa: N802 - a constant of the module, of which this is only the type
        """Tried in order; the most specific signature first."""
        ...

    def infer(self, state: State, naming: str, hints: Hints) -> ModelSpec:
        """Finds everything the weights tell, fills in the rest from the config and the table, and says which is which.

        Args:
            state: weights in timm's names.
            naming: the `Naming.name` they were found in; some defaults (LayerNorm eps, channel order) follow from it.
            hints: configuration and the user's overrides.

        Raises:
            UnknownArchitecture: shapes that no member of the family has, or a fact that must be given by the user.
        """
        ...
