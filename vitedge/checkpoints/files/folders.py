# SPDX-License-Identifier: Apache-2.0
"""Finding the weights and configuration in a Hugging Face folder."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitedge.errors import UnreadableCheckpoint
from vitedge.files.json_file import read_json

SINGLE = ("model.safetensors", "pytorch_model.bin")
SHARDED = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
OPEN_CLIP = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
CONFIG = "config.json"
OPEN_CLIP_CONFIG = "open_clip_config.json"
CONFIGS = (CONFIG, OPEN_CLIP_CONFIG)
PREPROCESSOR = "preprocessor_config.json"
SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".npz")
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


@dataclass(frozen=True)
class Beside:
    """The configuration in the folder of a file of weights."""

    config: Mapping[str, Any] = field(default_factory=dict)
    preprocessor: Mapping[str, Any] = field(default_factory=dict)
    extras: tuple[Path, ...] = ()
    """The files that were read."""
    notes: tuple[str, ...] = ()


def beside(file: Path) -> Beside:
    """Finds the configuration of a file that lies in a configured folder.

    It is the file's where the file has the name that the libraries give to a folder's weights, or is the folder's only
    file of weights. A configuration that belongs to another file of the folder is named in a note.

    Raises:
        UnreadableCheckpoint: the configuration cannot be used.
    """
    folder = file.parent
    path = folder / _config_of(file)
    if not path.is_file():
        return Beside()
    if file.name not in (*SINGLE, *OPEN_CLIP):
        others = [other for other in folder.iterdir() if other.suffix in SUFFIXES and other.name != file.name]
        if others or not _is_of_a_model(path):
            return Beside(notes=_not_read(path) if others else ())
    found, extras = _configured(path)
    return Beside(*found, extras, (f"{path} is read as the configuration of these weights.",))


def _config_of(file: Path) -> str:
    """Returns the name of a file's configuration: open_clip's has one of its own, also beside one of transformers."""
    is_alone = not (file.parent / CONFIG).is_file() and (file.parent / OPEN_CLIP_CONFIG).is_file()
    return OPEN_CLIP_CONFIG if file.name in OPEN_CLIP or is_alone else CONFIG


def _configured(path: Path) -> tuple[tuple[Mapping[str, Any], Mapping[str, Any]], tuple[Path, ...]]:
    """Returns a configuration and that of its processor, which open_clip has in the same file, and the files read."""
    names = (path.name,) if path.name == OPEN_CLIP_CONFIG else (path.name, PREPROCESSOR)
    extras = tuple(path.parent / name for name in names if (path.parent / name).is_file())
    processor = _optional(path.parent / PREPROCESSOR) if PREPROCESSOR in names else {}
    return (_optional(path), processor), extras


def _is_of_a_model(path: Path) -> bool:
    """Returns whether a JSON file names an architecture: any program may call its settings ``config.json``."""
    try:
        config = _json(path)
    except UnreadableCheckpoint:
        return False
    return bool({"model_type", "architecture", "architectures", "model_cfg"} & set(config))


def _not_read(path: Path) -> tuple[str, ...]:
    if not _is_of_a_model(path):
        return ()
    return (
        f"{path} is not read, because the folder holds other weights, too; pass the folder, or state what "
        "the weights do not tell (--set heads=…).",
    )


def find(folder: Path) -> Folder:
    """Finds the files of a folder as transformers and timm write it; safetensors goes before pickles.

    Raises:
        UnreadableCheckpoint: no weights, or an index or configuration that cannot be used.
    """
    (config, preprocessor), extras = _configured(folder / _config_of(folder / SINGLE[0]))
    for single, index in zip(SINGLE, SHARDED, strict=True):
        if (folder / single).is_file():
            return Folder({folder / single: None}, config, preprocessor, extras)
        if (folder / index).is_file():
            return Folder(_shards(folder / index), config, preprocessor, (*extras, folder / index))
    for name in OPEN_CLIP:
        if (folder / name).is_file():
            (config, preprocessor), extras = _configured(folder / OPEN_CLIP_CONFIG)
            return Folder({folder / name: None}, config, preprocessor, extras)
    raise UnreadableCheckpoint(no_weights(folder))


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


def no_weights(folder: Path) -> str:
    """Returns the sentence for a folder without weights that can be read: what it holds, and the way out."""
    if (folder / ".metadata").is_file() or any(folder.glob("*.distcp")):
        return (
            f"{folder} is a distributed checkpoint (DCP), in shards; join them with "
            f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} weights.pth, and pass that."
        )
    if (folder / "adapter_config.json").is_file():
        return (
            f"{folder} holds an adapter of PEFT (LoRA), not a model; merge it first with model.merge_and_unload(), "
            "and pass the folder of save_pretrained."
        )
    others = sorted(file.name for file in folder.iterdir() if file.suffix in SUFFIXES)
    if others:
        quoted = shlex.quote(str(folder / others[0]))
        return f"{folder} has no {SINGLE[0]} or {SINGLE[1]}; pass one of its files, such as {quoted}."
    return (
        f"{folder} holds no weights: there is no {' or '.join(SINGLE)}, single or sharded; pass the folder that does."
    )
