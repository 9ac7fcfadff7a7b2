# SPDX-License-Identifier: Apache-2.0
"""A configuration taken apart: of which library it is, its keys one by one, and the facts that families read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from vitedge.checkpoints.keys import facts, huggingface, open_clip, timm
from vitedge.checkpoints.keys.meaning import Read, Table, is_size
from vitedge.errors import UnknownArchitecture

TIMM, HUGGING_FACE, OPEN_CLIP, UNKNOWN = "timm", "transformers", "open_clip", ""

_NESTED = ("pretrained_cfg", "model_args")
_VISION_PARTS = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}
"""``model_type`` of models of images and text to that of their image encoder."""
_LABELS = ("id2label", "label2id", "num_labels")
_TWO_PARTS = ("text_config", "text_config_dict", "vision_config", "vision_config_dict")
_READ: Table = {**{key: huggingface.GENERIC[key] for key in ("id2label", "num_labels")}, "image_size": Read(is_size)}
_SPELLINGS = {"num_heads": "num_attention_heads", "heads": "num_attention_heads", "act_layer": "hidden_act"}
"""Name of an argument in timm to the one that families read."""


class Key(NamedTuple):
    """One key of a configuration."""

    section: str
    """``model_args``, ``pretrained_cfg``, one of open_clip's, or empty for the top level."""
    name: str
    value: Any
    is_outside: bool = False
    """Whether it stands at the top level, although it means what it would mean in its section."""

    @property
    def written(self) -> str:
        """The key with its section, as a message names it."""
        return f"{self.section}.{self.name}" if self.section and not self.is_outside else self.name


@dataclass(frozen=True)
class Configuration:
    """The content of a ``config.json``, or of timm's registry."""

    where: str
    """The file, for messages."""
    library: str
    """``timm``, ``transformers``, ``open_clip``, or empty where the file does not say."""
    keys: tuple[Key, ...]
    """Every key that says something: not null, and not replaced by the same key elsewhere in the file."""
    facts: Mapping[str, Any]
    """`vitedge.checkpoints.families.family.Hints.config`: sections merged, and timm's arguments under the names that
    transformers has for them."""

    @property
    def model_type(self) -> str:
        """Value of transformers' ``model_type``; empty where there is none, or where timm's names tell more."""
        return str(self.facts.get("model_type", "")) if self.library == HUGGING_FACE else ""

    @property
    def family(self) -> str:
        """The family that the configuration is of; empty where it does not say or is of none."""
        if self.library == TIMM:
            return timm.family_of(str(self.facts["architecture"]))
        if self.library == OPEN_CLIP:
            return "vit"
        entry = huggingface.CLASSES.get(self.model_type)
        return entry.family if entry else ""


def read(config: Mapping[str, Any], where: str) -> Configuration:
    """Takes a configuration apart.

    Args:
        config: the JSON object of a ``config.json``, with timm's own configuration merged into it where the hub was
            asked for one of timm's names; empty where there is none.
        where: the file, for messages.

    Raises:
        UnknownArchitecture: a key of transformers that every model has a value of is null.
    """
    if open_clip.is_open_clip(config):
        built = open_clip.as_timm(config, where)
        if built is None:
            keys = tuple(Key(*entry) for entry in open_clip.entries(config) if entry[2] is not None)
            told = open_clip.told({(key.section, key.name): key.value for key in keys})
            return Configuration(where, OPEN_CLIP, keys, {**told, "vision_cfg": config["model_cfg"]["vision_cfg"]})
        config = built
    config = _vision_part(config)
    library = _library(config)
    if library == HUGGING_FACE:
        _refuse_null(config, where)
    keys = tuple(key for key in _keys(config, library) if key.value is not None)
    return Configuration(where, library, keys, _facts(keys, library))


def _refuse_null(config: Mapping[str, Any], where: str) -> None:
    """Refuses null where transformers has a default of its own: that is for a key that is not there."""
    entry = huggingface.CLASSES.get(str(config.get("model_type")))
    defaults: Mapping[str, Any] = entry.defaults if entry else {}
    for name, default in defaults.items():
        if name in config and config[name] is None and default is not None:
            raise UnknownArchitecture(
                f"{where} says {name} = null: give the model's own value, or take the key out of the file if it is the "
                f"default of transformers, {default}."
            )


def _vision_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns of transformers' CLIP or SigLIP the configuration of its image encoder; any other as it is."""
    encoder = _VISION_PARTS.get(str(config.get("model_type")))
    if encoder is None:
        return config
    vision = config.get("vision_config")
    outer = {key: value for key, value in config.items() if key not in _TWO_PARTS}
    labels = {key: outer[key] for key in _LABELS if key in outer}
    return {**outer, **(vision if isinstance(vision, Mapping) else {}), **labels, "model_type": encoder}


def _library(config: Mapping[str, Any]) -> str:
    if isinstance(config.get("architecture"), str):
        return TIMM
    return HUGGING_FACE if isinstance(config.get("model_type"), str) else UNKNOWN


def _keys(config: Mapping[str, Any], library: str) -> Iterator[Key]:
    nested = {name: config[name] for name in _NESTED if isinstance(config.get(name), Mapping)}
    arguments = nested.get("model_args", {})
    for name, value in config.items():
        if name in nested:
            continue
        if library == TIMM and name == "global_pool":  # timm writes what the model has, whatever its arguments were
            if name not in arguments:
                yield Key("model_args", name, value, is_outside=True)
        else:
            yield Key("", name, value)
    yield from (
        Key("pretrained_cfg", name, value)
        for name, value in nested.get("pretrained_cfg", {}).items()
        if name not in config
    )
    yield from (Key("model_args", name, value) for name, value in arguments.items())


def _facts(keys: tuple[Key, ...], library: str) -> dict[str, Any]:
    order = {"pretrained_cfg": 0, "": 1, "model_args": 2}
    merged = {key.name: key.value for key in sorted(keys, key=lambda key: order[key.section])}
    if library == HUGGING_FACE:
        entry = huggingface.CLASSES.get(merged["model_type"])
        return {**entry.defaults, **merged} if entry else merged
    for name, spelling in _SPELLINGS.items():
        if name in merged:
            merged.setdefault(spelling, merged[name])
    if "img_size" in merged:
        merged.pop("input_size", None)
        merged["image_size"] = merged["img_size"]
    if facts.NORM_LAYER.kind(merged.get("norm_layer")):
        merged.setdefault("layer_norm_eps", facts.LAYERNORM_EPS)
    arguments = {key.name: key.value for key in keys if key.section == "model_args"}
    return {**timm.untold(merged["architecture"], arguments), **merged} if library == TIMM else merged


def table_of(configuration: Configuration, family: str) -> Mapping[str, Mapping[str, Any]]:
    """Returns for each section of a configuration its keys' meanings, where its weights are of a family."""
    if family == timm.NAMED:
        top = {**_READ, **timm.CONFIG}
        return {"": {**top, **timm.BY_NAME}, "pretrained_cfg": timm.CONFIG, "model_args": timm.BY_NAME}
    if configuration.library == OPEN_CLIP:
        return open_clip.TABLES
    arguments = timm.MODEL_ARGS[family]
    if configuration.library == TIMM:
        top = {**huggingface.GENERIC, **timm.CONFIG}
        return {"": top, "pretrained_cfg": timm.CONFIG, "model_args": arguments}
    if configuration.library == HUGGING_FACE:
        entry = huggingface.CLASSES.get(configuration.model_type)
        return {"": {**huggingface.FOREIGN, **huggingface.GENERIC, **(entry.table if entry else {})}}
    classes = [entry.table for entry in huggingface.CLASSES.values() if entry.family == family]
    every = {key: meaning for table in classes for key, meaning in table.items()}
    top = {**huggingface.GENERIC, **timm.CONFIG, **every, **arguments}
    return {"": top, "pretrained_cfg": timm.CONFIG, "model_args": arguments}
