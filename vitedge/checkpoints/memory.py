# SPDX-License-Identifier: Apache-2.0
"""Weights in memory in the place of a checkpoint's file, with what the model that holds them tells of itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vitedge.checkpoints import saved
from vitedge.checkpoints.files.container import Container
from vitedge.errors import UnreadableCheckpoint
from vitedge.files.plain import to_dict
from vitedge.records import ModelSpec


@dataclass(frozen=True)
class _Held(Container):
    """The container of weights in memory: hashed where they lie."""

    tensors: tuple[tuple[str, torch.Tensor], ...] = ()

    def sha256(self) -> str:
        """Returns the SHA-256 of every tensor's name, type, shape and bytes, in the order of the names."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.tensors, key=lambda entry: entry[0]):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class InMemory:
    """A checkpoint that is no file; `vitedge.checkpoints.read.read` takes it in the place of a path."""

    label: str
    """Its name in sentences and records, such as ``the VisionTransformer in memory``."""
    content: Mapping[str, Any]
    """A state dict, or a mapping with one somewhere in it, as ``torch.load`` returns it; not altered."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The configuration that transformers keeps in its modules, as the JSON object that it would write."""
    told: Mapping[str, Any] = field(default_factory=dict)
    """Facts that the module tells, as names of `ModelSpec` or `Preprocessing` fields; what a user states goes first."""
    spec: ModelSpec | None = None
    """The model that the weights are of, where vitedge built it: nothing is then found out."""
    confirmed: bool = False
    """Whether the model that is found was compared with the module, so that no fact of the network is a guess."""

    def __str__(self) -> str:
        return self.label

    def container(self) -> Container:
        """Returns the weights as an opened file: detached and on the processor, sharing memory where they can.

        Raises:
            UnreadableCheckpoint: a weight is on the meta device, which holds no values.
        """
        content = _on_processor(self.content, self.label)
        metadata = {}
        if self.spec is not None:
            metadata[saved.KEY] = json.dumps(to_dict(saved.Saved(self.spec)), allow_nan=False)
        tensors = tuple(_tensors(content))
        size = sum(tensor.nbytes for _, tensor in tensors)
        return _Held("memory", Path(), size, content, self.config, metadata=metadata, tensors=tensors)


def _on_processor(content: Mapping[str, Any], label: str) -> dict[str, Any]:
    return {
        key: _on_processor(value, label)
        if isinstance(value, Mapping)
        else _detached(value, f"{label}: {key}")
        if isinstance(value, torch.Tensor)
        else value
        for key, value in content.items()
    }


def _detached(tensor: torch.Tensor, where: str) -> torch.Tensor:
    if tensor.is_meta:
        raise UnreadableCheckpoint(f"{where} is on the meta device, which holds no values: load the weights first.")
    return tensor.detach().cpu()


def _tensors(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _tensors(value, f"{prefix}{key}.")
        elif isinstance(value, torch.Tensor) and value.layout == torch.strided:
            yield f"{prefix}{key}", value
