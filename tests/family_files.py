# SPDX-License-Identifier: Apache-2.0
"""Checkpoints as strangers leave them: every family, in every naming, container and wrapper, tiny and seeded.

A `Case` writes one file or folder and keeps the library's own module, whose outputs are the truth.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn

State = Mapping[str, Tensor]
Save = Callable[[State, Path], Path]


@dataclass(frozen=True)
class Source:
    """One set of weights: in the names of its library, and what the library computes from it."""

    state: State
    forward: Callable[[Tensor], Tensor]
    """Normalized images to logits, or to the tokens of a headless encoder in the layout of vitedge."""
    at: Callable[[int], Callable[[Tensor], Tensor]] | None = None
    """The library's own forward at another image size, where it has one."""
    module: Any = None
    """The model of transformers, for the containers that it writes itself."""


@dataclass(frozen=True)
class Case:
    """A checkpoint to be made, and what has to be found in it."""

    family: str
    naming: str
    source: Callable[[], Source]
    save: Save | Callable[[Source, Path], Path]
    size: int
    other: int
    """Another image size, in pixels."""
    classes: int = 5
    given: Mapping[str, Any] = field(default_factory=dict)
    """Facts that the user has to give by ``--set``."""
    whole: bool = False
    """Whether its file and the other size are looked at, too: once for each kind of graph."""

    def write(self, source: Source, folder: Path) -> str:
        folder.mkdir()
        if getattr(self.save, "takes_source", False):
            return str(self.save(source, folder))  # type: ignore[arg-type]
        return str(self.save(source.state, folder))  # type: ignore[arg-type]


def copied(state: State) -> dict[str, Tensor]:
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}


def prefixed(prefix: str, state: State) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def pickled(wrap: Callable[[State], Any] = dict, *, legacy: bool = False, name: str = "checkpoint.pth") -> Save:
    """A zip or legacy pickle of what ``wrap`` puts around the weights."""

    def save(state: State, folder: Path) -> Path:
        torch.save(wrap(copied(state)), folder / name, _use_new_zipfile_serialization=not legacy)
        return folder / name

    return save


def safetensors(wrap: Callable[[State], State] = dict) -> Save:
    def save(state: State, folder: Path) -> Path:
        save_file(dict(wrap(copied(state))), folder / "model.safetensors")
        return folder / "model.safetensors"

    return save


def npz(state: State, folder: Path) -> Path:
    np.savez(folder / "weights.npz", **{name: tensor.numpy() for name, tensor in state.items()})
    return folder / "weights.npz"


def published_folder(shard: str = "1GB") -> Callable[[Source, Path], Path]:
    """Returns the weights that `save_pretrained` writes; the names on disk are not those in memory."""

    def save(source: Source, folder: Path) -> Path:
        quiet()
        source.module.save_pretrained(folder, max_shard_size=shard)
        assert (len(list(folder.glob("*.safetensors"))) > 1) is (shard != "1GB")
        return folder

    save.takes_source = True  # type: ignore[attr-defined]
    return save


def memory_folder() -> Callable[[Source, Path], Path]:
    """The names that transformers has in memory, saved by `torch.save` beside the configuration."""

    def save(source: Source, folder: Path) -> Path:
        source.module.config.save_pretrained(folder)
        torch.save(copied(source.module.state_dict()), folder / "pytorch_model.bin")
        return folder

    save.takes_source = True  # type: ignore[attr-defined]
    return save


def quiet() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


# Wrappers, as training scripts write them.


def under_model(state: State) -> dict[str, Any]:
    """Facebook's: weights, optimizer, epoch and arguments."""
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    return {"model": state, "optimizer": optimizer, "epoch": 7, "args": argparse.Namespace(lr=0.1)}


def under_state_dict(state: State) -> dict[str, Any]:
    """Distributed training's: every name begins with ``module.``."""
    return {"state_dict": prefixed("module.", state), "epoch": 1, "arch": "x"}


def with_average(state: State) -> dict[str, Any]:
    """Two sets; only the averaged one is the model, the other is far from it."""
    return {"model": {name: tensor * 0.5 for name, tensor in state.items()}, "model_ema": state}


def compiled(state: State) -> dict[str, Tensor]:
    return prefixed("_orig_mod.", state)


def of_timm(module: nn.Module, *, names: Callable[[Any], State] | None = None, resizes: bool = False) -> Source:
    """A model of timm, in the names that ``names`` gives to its weights."""
    state = names(module) if names else module.state_dict()

    def at(edge: int) -> Callable[[Tensor], Tensor]:
        resized = copy.deepcopy(module)
        resized.set_input_size(img_size=(edge, edge))  # type: ignore[operator]
        return resized

    return Source(copied(state), module, at if resizes else None)


def of_timm_encoder(module: nn.Module, *, names: Callable[[Any], State] | None = None, resizes: bool = False) -> Source:
    """A headless model of timm: its tokens, and maps with the channels in front."""

    def tokens(model: Any) -> Callable[[Tensor], Tensor]:
        def forward(images: Tensor) -> Tensor:
            found: Tensor = model.forward_features(images)
            return found.permute(0, 3, 1, 2) if found.ndim == 4 else found

        return forward

    source = of_timm(module, names=names, resizes=resizes)
    at = source.at
    return Source(source.state, tokens(module), None if at is None else lambda edge: tokens(at(edge)))


def of_transformers(module: Any) -> Source:
    """A model of transformers, classifier or not."""

    def forward(images: Tensor) -> Tensor:
        found = module(pixel_values=images)
        result: Tensor = found.logits if "logits" in found else found.last_hidden_state
        return result

    return Source(copied(module.state_dict()), forward, module=module)
