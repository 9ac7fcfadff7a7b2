# SPDX-License-Identifier: Apache-2.0
"""Any model of timm, built by its name."""

from __future__ import annotations

import contextlib
import re
from functools import cache
from typing import Any

import timm
import torch
from torch import Tensor, nn

from vitedge.checkpoints.families.family import State
from vitedge.checkpoints.families.timm.signature import index, timm_version
from vitedge.errors import ImpossibleSize, UnknownArchitecture
from vitedge.records import ModelSpec
from vitedge.sentences import short

_BLOCK = re.compile(r"(blocks|stages|layers)\.\d+")


def build(spec: ModelSpec) -> nn.Module:
    """Builds the module of the spec; see `vitedge.models.family.Builder.build`.

    Raises:
        UnknownArchitecture: the installed timm has no such model, or does not build it with the arguments of its
            configuration.
        ImpossibleSize: the model takes no other image size than its own.
    """
    name = spec.options["model"]
    if not timm.is_model(name):
        raise UnknownArchitecture(
            f"timm {timm.__version__} has no model {name!r}; the index was made with {timm_version()}: "
            f"pip install timm=={timm_version()}."
        )
    settings: dict[str, Any] = {"num_classes": spec.classes} if index()[name].classifier else {}
    if spec.in_channels != index()[name].input_size[0]:
        settings["in_chans"] = spec.in_channels
    arguments = spec.options.get("arguments", {})
    is_default = not arguments and spec.image_size == index()[name].input_size[1:]
    try:
        module = _created(name, spec.image_size, {**settings, **arguments})
        if not is_default:
            _try(module, spec)
        return module
    except ImpossibleSize:
        raise
    except Exception as error:
        if is_default:
            raise
        height, width = spec.image_size
        told = ", ".join(f"{key} = {value!r}" for key, value in {"img_size": (height, width), **arguments}.items())
        raise UnknownArchitecture(f"timm's {name} cannot be built and run with {told}: {short(error)}.") from error


@torch.no_grad()
def _try(module: nn.Module, spec: ModelSpec) -> None:
    """Computes one image, on the meta device its shapes alone: timm builds some models at sizes they cannot run."""
    device = next(module.parameters()).device
    with contextlib.suppress(NotImplementedError):  # an operation without shapes of its own on the meta device
        module(torch.zeros((1, spec.in_channels, *spec.image_size), device=device))


def _created(name: str, image_size: tuple[int, int], settings: dict[str, Any]) -> nn.Module:
    if image_size == index()[name].input_size[1:]:
        module: nn.Module = timm.create_model(name, **settings)
        return module.eval()
    try:
        module = timm.create_model(name, img_size=image_size, **settings)
    except TypeError:  # its constructor has no image size: a network of convolutions fits any, unless timm fixes it
        module = timm.create_model(name, **settings)
        if module.pretrained_cfg.get("fixed_input_size"):  # type: ignore[union-attr, operator]
            raise ImpossibleSize(f"timm's {name} has one image size, {index()[name].input_size[1]}.") from None
    return module.eval()


def resize(_state: State, spec: ModelSpec, image_size: tuple[int, int]) -> tuple[State, ModelSpec]:
    """Refuses: how weights of any of timm's models follow the image size is not known here.

    Raises:
        ImpossibleSize: always.
    """
    raise ImpossibleSize(
        f"timm's {spec.variant} cannot be rebuilt at {image_size[0]}x{image_size[1]}: vitedge builds models that it "
        f"knows only by their name in timm at their own size, {spec.image_size[0]}x{spec.image_size[1]}; leave "
        "--image-size out."
    )


def features(module: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns what timm's ``forward_features`` does, and the pooled input of the classifier ``(batch, width)``."""
    model: Any = module
    tokens = model.forward_features(images)
    return tokens, model.forward_head(tokens, pre_logits=True)


def blocks(spec: ModelSpec) -> tuple[str, ...]:
    """Returns the names of the blocks, stages or layers; none where timm calls them otherwise."""
    return _blocks(spec.options["model"])


@cache
def _blocks(name: str) -> tuple[str, ...]:
    with torch.device("meta"):
        module = timm.create_model(name)
    return tuple(part for part, _ in module.named_modules() if _BLOCK.fullmatch(part))
