# SPDX-License-Identifier: Apache-2.0
"""The file from which an interrupted recovery goes on: `tests/vitedge/pruning/test_recover.py`.

The order of the images and the learning rate follow from the seed and the step, so the file holds no state of a
generator.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitedge.files.plain import to_dict
from vitedge.files.replacing import clear_debris, replacing_file
from vitedge.images.stream import ImageStream
from vitedge.pruning.draft import Draft
from vitedge.pruning.recipe import PruningRecipe

SAVE_SECONDS = 30.0
"""Time between two files."""
_SAVE_SHARE = 20
"""A file that took long is written again only after so many times as long."""
_LAYOUT = 1


@dataclass
class State:
    """How far a recovery is; everything that the steps still to come depend on."""

    weights: dict[str, Tensor]
    """Of the module, as its ``state_dict`` has them."""
    best: dict[str, Tensor]
    """The weights of the lowest loss on the images that are held out."""
    optimizer: dict[str, Any]
    """Its ``state_dict``; empty before the first step."""
    before: float
    """Loss on the images that are held out, before the first step."""
    after: float
    """The same, of the best weights."""
    best_step: int = 0
    epoch: int = 0
    batch: int = 0
    """Batches of the epoch that are done."""
    step: int = 0
    sums: tuple[tuple[float, int], ...] = ()
    """Sum and number of the losses in each part of the curve."""
    seconds: float = 0.0
    note: str = ""


class StateFile:
    """Writes a state from time to time, in one step, and reads it back where it belongs to the same recovery.

    Args:
        path: the file, or None for a recovery that starts anew.
        key: of the recovery; see `key_of`.
    """

    def __init__(self, path: Path | None, key: str) -> None:
        self._path, self._key = path, key
        self._next = time.monotonic() + SAVE_SECONDS
        if path is not None:
            clear_debris(path)

    def read(self) -> State | None:
        """Returns the state in the file, or None where there is none, or that of another recovery, or a damaged one."""
        if self._path is None or not self._path.is_file():
            return None
        try:
            found = torch.load(self._path, map_location="cpu", weights_only=True)
            return State(**found["state"]) if found["key"] == self._key else None
        except Exception:  # torch raises almost anything for a damaged file
            return None

    def is_due(self) -> bool:
        """Returns whether it is time to write."""
        return self._path is not None and time.monotonic() >= self._next

    def write(self, state: State) -> None:
        """Writes the file, if there is one.

        Raises:
            OutputRefused: it cannot be written, or the disk is full.
        """
        if self._path is None:
            return
        begun = time.monotonic()
        with replacing_file(self._path) as partial:
            parts = {field.name: getattr(state, field.name) for field in fields(state)}
            content = io.BytesIO()  # torch has other errors than OSError for a full disk
            torch.save({"key": self._key, "state": parts}, content)
            partial.write_bytes(content.getbuffer())
        now = time.monotonic()
        self._next = now + max(SAVE_SECONDS, _SAVE_SHARE * (now - begun))


def key_of(draft: Draft, images: ImageStream, recipe: PruningRecipe, settings: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of everything that decides a recovery: recipe, images, dense weights, shapes, settings.

    The pruned weights are known by the recipe and their shapes: on another number of threads they differ in their last
    bits, which is no reason to begin anew.
    """
    digest = hashlib.sha256()
    for name, tensor in draft.dense.module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    parts = {
        "layout": _LAYOUT,
        "recipe": to_dict(recipe),
        "images": images.fingerprint(),
        "preprocessing": to_dict(draft.spec.preprocessing),
        "dense": digest.hexdigest(),
        "shapes": {name: list(tensor.shape) for name, tensor in draft.module.state_dict().items()},
        "settings": dict(settings),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
