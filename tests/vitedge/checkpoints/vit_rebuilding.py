# SPDX-License-Identifier: Apache-2.0
"""From weights in anybody's names to the reference, as the reader goes about it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vitedge.checkpoints.families.family import Converted, Hints
from vitedge.checkpoints.families.vit import spec as vit
from vitedge.models import vit as builder
from vitedge.records import ModelSpec

NO_HINTS = Hints()


def naming_of(names: Mapping[str, Any]) -> str:
    return next(naming.name for naming in vit.NAMINGS if not naming.missing(names))


def convert(state: Mapping[str, Tensor], hints: Hints = NO_HINTS) -> tuple[Converted, ModelSpec]:
    naming = next(naming for naming in vit.NAMINGS if not naming.missing(state))
    converted = naming.convert(dict(state), hints)
    hints = dataclasses.replace(hints, config={**hints.config, **converted.facts})
    return converted, vit.infer(converted.state, naming.name, hints)


def rebuild(state: Mapping[str, Tensor], hints: Hints = NO_HINTS) -> tuple[nn.Module, ModelSpec, Converted]:
    converted, spec = convert(state, hints)
    module = builder.build(spec)
    module.load_state_dict(converted.state, strict=True)
    return module, spec, converted


def images_for(spec: ModelSpec, count: int = 2) -> Tensor:
    return torch.randn(count, spec.in_channels, *spec.image_size, generator=torch.Generator().manual_seed(7))


def assert_equal(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    assert ours.shape == theirs.shape
    assert (ours[0] - ours[1]).abs().max() > 1e-3 * theirs.abs().max(), "the output has to depend on the image"
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()
