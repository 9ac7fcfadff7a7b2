# SPDX-License-Identifier: Apache-2.0
"""A model in memory as a checkpoint: written to a temporary file with what the module itself tells, and read from it.

A module that was built by vitedge comes with its spec. Of any other it is found out as of a file, and believed only if
the model that is built computes what the module computes.
"""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from vitedge.checkpoints import saved
from vitedge.checkpoints.read import Checkpoint, read
from vitedge.errors import BadRecipe, UserError
from vitedge.models.activations import ACTIVATIONS
from vitedge.models.blocks import transformer_blocks
from vitedge.models.reference import Reference, load_reference
from vitedge.records import ModelSpec, Origin

_ALLOWED = 1e-4
"""Largest difference of the outputs, relative to their largest value, for rounding."""
_IMAGES = 2
_PREPROCESSING = {"mean": "mean", "std": "std", "interpolation": "interpolation", "crop_pct": "crop"}
"""Entry of timm's ``pretrained_cfg`` to the field that it states."""


@contextmanager
def in_memory(model: nn.Module | Reference, overrides: Mapping[str, Any]) -> Iterator[Checkpoint]:
    """Yields a model in memory as a checkpoint, for the time of a ``with``: its weights lie in a temporary file.

    Args:
        model: a module of timm's classes, or what `vitedge.load` returned; it is not altered.
        overrides: facts that the user states; they go before what the module tells.

    Raises:
        UserError: it is of no architecture that vitedge reads, or computes something else than that.
    """
    module = model if isinstance(model, nn.Module) else model.module
    label = f"the {type(module).__name__} in memory"
    state = {name: tensor.detach().cpu().float().contiguous() for name, tensor in module.state_dict().items()}
    with tempfile.TemporaryDirectory(prefix="vitedge-") as folder:
        path = Path(folder) / f"model{saved.SUFFIX}"
        if isinstance(model, Reference):
            saved.save(path, state, model.spec, ())
            yield dataclasses.replace(read(str(path), overrides=overrides), source=label)
            return
        path.write_bytes(save({name: tensor.clone() for name, tensor in state.items()}))
        try:
            looked = read(str(path), overrides=overrides)
            found = read(str(path), overrides={**_told(module, looked.spec), **overrides})
            _refuse_other(module, load_reference(found), label)
        except UserError as error:
            raise type(error)(str(error).replace(str(path), label)) from error
        yield dataclasses.replace(found, source=label, spec=_confirmed(found.spec))


def _told(module: nn.Module, spec: ModelSpec) -> dict[str, Any]:
    """Returns the facts that a module of timm's classes tells and its weights do not."""
    told: dict[str, Any] = {}
    blocks = transformer_blocks(module)
    if len(blocks) == sum(spec.depths):
        heads = tuple(
            blocks[end - depth].heads for depth, end in zip(spec.depths, accumulate(spec.depths), strict=True)
        )
        told |= {"heads": heads} if all(heads) else {}
    norm = next((part for part in module.modules() if isinstance(part, nn.LayerNorm)), None)
    if norm is not None:
        told["norm_eps"] = norm.eps
    if blocks:
        told |= _activation(blocks[0].mlp)
    configuration: Mapping[str, Any] = getattr(module, "pretrained_cfg", None) or {}
    size = getattr(getattr(module, "patch_embed", None), "img_size", None) or configuration.get("input_size", ())[1:]
    if size:
        told["image_size"] = tuple(size)
    for entry, name in _PREPROCESSING.items():
        if configuration.get(entry) is not None:
            told[name] = configuration[entry]
    return told


@torch.inference_mode()
def _activation(mlp: nn.Module) -> dict[str, str]:
    """Returns the name of the activation of an MLP, where it is a known one."""
    own = getattr(mlp, "act", None)
    values = torch.linspace(-5, 5, 64)
    for name, make in ACTIVATIONS.items():
        if own is not None and torch.allclose(own.cpu()(values.clone()), make()(values.clone()), atol=1e-6):
            return {"activation": name}
    return {}


@torch.inference_mode()
def _refuse_other(module: nn.Module, found: Reference, label: str) -> None:
    """Refuses a module that computes something else than the model that was found.

    Raises:
        BadRecipe: says what it was taken for.
    """
    images = torch.randn(
        _IMAGES, found.spec.in_channels, *found.spec.image_size, generator=torch.Generator().manual_seed(0)
    )
    own = copy.deepcopy(module).cpu().float().eval()(images)
    built = found.module(images)
    if own.shape != built.shape or not float((own - built).abs().max()) <= _ALLOWED * float(own.abs().max()):
        raise BadRecipe(
            f"{label} computes something else than the {found.spec.variant} that its weights look like: state in the "
            "recipe's overrides what differs, or save its state_dict and give the file."
        )


def _confirmed(spec: ModelSpec) -> ModelSpec:
    """Returns a spec whose guesses about the network are facts: it computes what the module computes."""
    origins = {
        name: Origin.GIVEN if origin is Origin.ASSUMED and not name.startswith("preprocessing.") else origin
        for name, origin in spec.origins.items()
    }
    return dataclasses.replace(spec, origins=origins)
