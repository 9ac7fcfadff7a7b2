# SPDX-License-Identifier: Apache-2.0
"""From foreign weights to the family's own module, as the reader and the reference do it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import ModuleType

import torch
from torch import Tensor, nn

from vitedge.checkpoints.families.family import Converted, Hints, Naming, State
from vitedge.records import ModelSpec


@dataclass(frozen=True)
class Rebuilt:
    module: nn.Module
    spec: ModelSpec
    converted: Converted


def naming_of(family: ModuleType, state: Mapping[str, Tensor]) -> Naming:
    return next(naming for naming in family.NAMINGS if not naming.missing(state))


def rebuilt(family: ModuleType, builder: ModuleType, state: State, hints: Hints | None = None) -> Rebuilt:
    hints = hints or Hints()
    naming = naming_of(family, state)
    converted = naming.convert(state, hints)
    hints = replace(hints, config={**hints.config, **converted.facts})
    spec = family.infer(converted.state, naming.name, hints)
    module = builder.build(spec)
    module.load_state_dict(converted.state, strict=True)
    return Rebuilt(module, spec, converted)


def images(size: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def relative_error(found: Tensor, expected: Tensor) -> float:
    assert expected.std() > 1e-2, "a constant reference judges nothing"
    with torch.no_grad():
        return float((found - expected).abs().max() / expected.abs().max())
