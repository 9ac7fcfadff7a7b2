# SPDX-License-Identifier: Apache-2.0
"""A model in memory as the source of a verb: its weights where they lie, and what the module itself tells.

A module that was built by vitedge comes with its spec. Of any other it is found out as of a file, and believed only if
the model that is built computes what the module computes.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitedge.checkpoints.memory import InMemory
from vitedge.checkpoints.read import read
from vitedge.errors import BadRecipe, UserError, WeightsMismatch
from vitedge.models.activations import ACTIVATIONS
from vitedge.models.blocks import transformer_blocks
from vitedge.models.reference import Reference, load_reference
from vitedge.records import ModelSpec
from vitedge.sentences import short

_ALLOWED = 1e-4
"""Largest difference of the outputs, relative to their largest value, for rounding."""
_IMAGES = 2
_PREPROCESSING = {"mean": "mean", "std": "std", "interpolation": "interpolation", "crop_pct": "crop"}
"""Entry of timm's ``pretrained_cfg`` to the field that it states."""
_AROUND = ("_orig_mod", "module")
"""Attribute of torch.compile's module, and of DataParallel and DistributedDataParallel, with the module inside."""
_OUTPUTS = ("logits", "last_hidden_state")
"""Where an output object of transformers holds its tensor; that of a classifier first."""


def in_memory(
    model: nn.Module | Reference | Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    weights: str | None = None,
) -> InMemory:
    """Returns a model in memory as a source that every verb takes; the model is not altered.

    Args:
        model: a module of timm, transformers or torchvision, or one around it, such as DataParallel, torch.compile's or
            one of the user's; a state dict; or what `vitedge.load` returned.
        overrides: facts that the user states; they go before what the module tells.
        weights: which set of weights, where a mapping holds several.

    Raises:
        UserError: a module of no architecture that vitedge reads, or that computes something else than that. A state
            dict is looked at when it is read.
    """
    if isinstance(model, Reference):
        return InMemory(f"the {type(model.module).__name__} in memory", model.module.state_dict(), spec=model.spec)
    if isinstance(model, Mapping):
        return InMemory("the state dict in memory", _as_tensors(model))
    module = _inside(model)
    label = f"the {type(module).__name__} in memory"
    _refuse_empty(module, label)
    core = _core(module)
    known = InMemory(label, module.state_dict(), _config(core))
    looked = read(known, overrides=overrides, weights=weights)
    found = dataclasses.replace(known, told=_told(core, looked.spec), confirmed=True)
    _refuse_other(module, load_reference(read(found, overrides=overrides, weights=weights)), label)
    return found


def _as_tensors(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a state dict with its NumPy arrays as tensors."""
    return {
        str(name): torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value
        for name, value in content.items()
    }


def _inside(module: nn.Module) -> nn.Module:
    """Returns the module inside of those that compute the same in another way."""
    for name in _AROUND:
        inner = getattr(module, name, None)
        if isinstance(inner, nn.Module) and len(list(module.children())) == 1 and not _own(module):
            return _inside(inner)
    return module


def _core(module: nn.Module) -> nn.Module:
    """Returns the model itself, inside of modules that hold nothing else: it knows its configuration."""
    children = list(module.children())
    if len(children) == 1 and not _own(module) and _config_of(module) is None:
        return _core(children[0])
    return module


def _own(module: nn.Module) -> bool:
    """Returns whether a module has weights of its own, beside those of its parts."""
    return any(True for _ in module.parameters(recurse=False))


def _refuse_empty(module: nn.Module, label: str) -> None:
    if next(module.parameters(), None) is None:
        raise WeightsMismatch(f"{label} has no weights: give the model itself, or its state dict.")


def _config_of(module: nn.Module) -> Callable[[], str] | None:
    """Returns what writes the configuration of a module of transformers; None for any other."""
    write: Any = getattr(getattr(module, "config", None), "to_json_string", None)
    return write if callable(write) else None


def _config(module: nn.Module) -> dict[str, Any]:
    """Returns the configuration that transformers would write beside the weights, or nothing."""
    write = _config_of(module)
    found = json.loads(write()) if write is not None else {}
    return {name: value for name, value in found.items() if value is not None}


def _told(module: nn.Module, spec: ModelSpec) -> dict[str, Any]:
    """Returns the facts that a module tells and its weights do not."""
    if _config_of(module) is not None:
        return {}  # transformers' configuration tells them all
    told: dict[str, Any] = {}
    blocks = transformer_blocks(module)
    heads = [block.heads for block in blocks] or [
        part.num_heads for part in module.modules() if isinstance(part, nn.MultiheadAttention)
    ]
    if len(heads) == sum(spec.depths):
        ends = accumulate(spec.depths)
        by_stage = tuple(heads[end - depth] for depth, end in zip(spec.depths, ends, strict=True))
        told |= {"heads": by_stage} if all(by_stage) else {}
    norm = next((part for part in module.modules() if isinstance(part, nn.LayerNorm)), None)
    if norm is not None:
        told["norm_eps"] = norm.eps
    if blocks:
        told |= _activation(blocks[0].mlp)
    configuration: Mapping[str, Any] = getattr(module, "pretrained_cfg", None) or {}
    if (size := _image_size(module, configuration)) is not None:
        told["image_size"] = size
    for entry, name in _PREPROCESSING.items():
        if configuration.get(entry) is not None:
            told[name] = configuration[entry]
    return told


def _image_size(module: nn.Module, configuration: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Returns the height and width that a module of timm or torchvision was built for."""
    own = getattr(getattr(module, "patch_embed", None), "img_size", None) or getattr(module, "image_size", None)
    if isinstance(own, int):
        return (own, own)
    return tuple(own or configuration.get("input_size", ())[1:]) or None


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
    shape = (found.spec.in_channels, *found.spec.image_size)
    images = torch.randn(_IMAGES, *shape, generator=torch.Generator().manual_seed(0))
    own = _computed(module, images, label)
    built: list[Tensor] = [found.module(images)]
    if found.spec.classes == 0:
        built += found.deployed(uint8=False, features=True)(images)
    if not any(_alike(own, other) for other in built):
        raise BadRecipe(
            f"{label} computes something else than the {found.spec.variant} that its weights look like: state what "
            "differs in overrides, give the model inside where a wrapper prepares the images or changes the outputs, "
            "or give its state dict, which is taken for that model."
        )


def _computed(module: nn.Module, images: Tensor, label: str) -> Tensor:
    """Returns what a copy of a module computes in evaluation mode, in float32, on the processor.

    Raises:
        UserError: it cannot be copied, fails on images of the size that was found, or returns no tensor.
    """
    remedy = "give its state dict instead"
    try:
        twin = copy.deepcopy(module).cpu().float().eval()
    except Exception as error:  # whatever the copying of someone's attributes raises
        raise UserError(f"{label} cannot be copied to be compared ({short(error)}): {remedy}.") from error
    try:
        output = twin(images)
    except Exception as error:  # whatever someone's forward raises
        shape = "x".join(map(str, images.shape[1:]))
        raise BadRecipe(f"{label} fails on an image of {shape} ({short(error)}): state its image_size.") from error
    found = _first_tensor(output)
    if found is None:
        raise BadRecipe(f"{label} returns {type(output).__name__} without a tensor of logits: {remedy}.")
    return found


def _first_tensor(output: Any) -> Tensor | None:
    """Returns the tensor of an output: itself, an output object's, or the first of a tuple."""
    if isinstance(output, Tensor):
        return output
    for name in _OUTPUTS:
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(found, Tensor):
            return found
    several: Iterable[Any] = output if isinstance(output, (tuple, list)) else ()
    return next((entry for entry in several if isinstance(entry, Tensor)), None)


def _alike(own: Tensor, built: Tensor) -> bool:
    return own.shape == built.shape and float((own - built).abs().max()) <= _ALLOWED * float(own.abs().max())
