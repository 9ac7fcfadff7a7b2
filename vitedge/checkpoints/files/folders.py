# SPDX-License-Identifier: Apache-2.0
"""Finding the weights and configuration in a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitedge.errors import UnreadableCheckpoint
from vitedge.files.json_file import read_json

SINGLE = ("model.safetensors", "pytorch_model.bin")
SHARDED = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
LARGEST_JSON = 16 * 2**20


@dataclass(frozen=True)
class Folder:
    """The files of a Hugging Face folder."""

    shards: Mapping[Path, tuple[str, ...] | None]
    """Each file of weights to the names of the weights taken from it; None takes all."""
    config: Mapping[str, Any]
    preprocessor: Mapping[str, Any]
    extras: tuple[Path, ...]
    """Other files that were read: configurations and the index of the shards."""


def find(folder: Path) -> Folder:
    """Finds the files of a folder as transformers and timm write it; safetensors goes before pickles.

    Raises:
        UnreadableCheckpoint: no weights, or an index or configuration that cannot be used.
    """
    extras = [folder / name for name in (CONFIG, PREPROCESSOR) if (folder / name).is_file()]
    config, preprocessor = (_optional(folder / name) for name in (CONFIG, PREPROCESSOR))
    for single, index in zip(SINGLE, SHARDED, strict=True):
        if (folder / single).is_file():
            return Folder({folder / single: None}, config, preprocessor, tuple(extras))
        if (folder / index).is_file():
            return Folder(_shards(folder / index), config, preprocessor, (*extras, folder / index))
    raise UnreadableCheckpoint(_no_weights(folder))


def pick(shard: Path, content: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Returns the named tensors of one shard.

    Raises:
        UnreadableCheckpoint: the index promises a tensor that the shard does not hold.
    """
    missing = [name for name in names if not isinstance(content, Mapping) or name not in content]
    if missing:
        raise UnreadableCheckpoint(
            f"{shard} does not hold {missing[0]}, which the index of its folder says it does; fetch the folder again."
        )
    return {name: content[name] for name in names}


def _shards(index: Path) -> dict[Path, tuple[str, ...] | None]:
    listed = _json(index).get("weight_map")
    if not isinstance(listed, dict) or not listed or not all(isinstance(file, str) for file in listed.values()):
        raise UnreadableCheckpoint(f"{index} has no weight_map from weights to files; fetch the folder again.")
    names: dict[str, list[str]] = {}
    for weight, file in listed.items():
        names.setdefault(file, []).append(weight)
    for file in names:
        # By name and not by where it leads: the hub's cache holds every file as a link to elsewhere.
        if file in (".", "..") or "/" in file or "\\" in file or "\0" in file:
            raise UnreadableCheckpoint(f"{index} is refused because it names {file!r}, which lies outside its folder.")
        if not (index.parent / file).is_file():
            raise UnreadableCheckpoint(f"{index} names {file}, which is not in the folder; fetch the folder again.")
    return {index.parent / file: tuple(weights) for file, weights in names.items()}


def _optional(path: Path) -> Mapping[str, Any]:
    return _json(path) if path.is_file() else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        data = read_json(path, LARGEST_JSON)
    except ValueError as error:
        raise UnreadableCheckpoint(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(data, dict):
        raise UnreadableCheckpoint(f"{path} holds no JSON object; fetch the folder again.")
    return data


def _no_weights(folder: Path) -> str:
    suffixes = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".npz")
    others = sorted(file.name for file in folder.iterdir() if file.suffix in suffixes)
    if others:
        return f"{folder} has no {SINGLE[0]} or {SINGLE[1]}; pass one of its files, such as {folder / others[0]}."
    return (
        f"{folder} holds no weights: there is no {' or '.join(SINGLE)}, single or sharded; pass the folder that does."
    )
