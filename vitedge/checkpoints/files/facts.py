# SPDX-License-Identifier: Apache-2.0
"""Facts about a model that a training script left in its file: arguments, configuration, name of the architecture.

Read are the ``args`` of timm, DeiT, MAE and DINO (``argparse.Namespace`` or dict), Lightning's ``hyper_parameters``, a
``config`` (the yacs node of Swin among them), entries beside the weights such as ``arch``, and the metadata of a
safetensors file. They come out under the keys of timm's and Hugging Face's configurations, so that a family reads one
vocabulary.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from vitedge.files.json_file import parse_json

PLACES = ("args", "hyper_parameters", "hparams", "config", "cfg", "model_config", "model_args", "opt")
"""Entries of a file that hold a training's settings, the first one going before the others."""
DEEPEST = 4
"""Levels of nesting that are looked into, such as ``config.MODEL.SWIN.NUM_HEADS``."""
_MOST = 2000
"""Entries looked at; a training has some hundred settings."""
_LONGEST_TEXT = 2**20
"""Characters of a text that are read as JSON; names of 22 000 classes have half as many."""
_NESTS = (
    *PLACES,
    "model_kwargs",
    "model",
    "data",
    "pretrained_cfg",
    "encoder",
    "backbone",
    "network",
    "arch",
    "vit",
    "swin",
    "test",
)

Parser = Callable[[Any], Any]
"""Returns a value in the configuration's form, or None where it is not of that kind."""


def facts_of(content: Any, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Returns what a file says about its model, under the keys of timm's and Hugging Face's configurations.

    Args:
        content: the object that was saved: weights, or a mapping with weights somewhere in it. Nothing of it is run.
        metadata: of a safetensors header; values are JSON or plain text.

    Returns:
        ``architecture`` (a name), ``num_heads`` (an int, or a tuple with one a stage), ``input_size`` (height and
        width in pixels), ``mean``, ``std``, ``crop_pct``, ``interpolation``, ``global_pool``, ``layer_norm_eps``,
        ``hidden_act``, ``norm_first``, ``output_stride`` and ``label_names``, as far as they are there. The settings of
        an averaged or trained set, and the file's own entries, go before metadata.
    """
    found: dict[str, Any] = {}
    for settings in _settings(content, metadata):
        for key, value in _entries(settings):
            name, parse = _KEYS[key]
            parsed = None if name in found else parse(value)
            if parsed is not None:
                found[name] = parsed
    return found


def _settings(content: Any, metadata: Mapping[str, str]) -> Iterator[Mapping[Any, Any]]:
    if isinstance(content, Mapping):
        yield from (settings for place in PLACES if (settings := _mapping(content.get(place))) is not None)
        yield {key: value for key, value in content.items() if not isinstance(value, (Mapping, torch.Tensor))}
    yield {key: _from_text(value) for key, value in metadata.items()}


def _mapping(value: Any) -> Mapping[Any, Any] | None:
    """Returns the entries of a mapping or of an object that is nothing but its attributes."""
    if isinstance(value, Mapping):
        return value
    # The unpickler gives instances of argparse.Namespace and of a plain stand-in alone; nothing else has attributes.
    attributes = getattr(value, "__dict__", None)
    return attributes if isinstance(attributes, dict) and not isinstance(value, types.ModuleType) else None


def _entries(settings: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Yields known entries, level by level: what lies higher goes before what lies deeper."""
    level, looked = [settings], 0
    for _ in range(DEEPEST):
        below: list[Mapping[Any, Any]] = []
        for mapping in level:
            for key, value in mapping.items():
                looked += 1
                name = str(key).lower()
                if looked > _MOST:
                    return
                inner = _mapping(value)
                if inner is not None and name in _NESTS:
                    below.append(inner)
                elif name in _KEYS and inner is None and not isinstance(value, torch.Tensor):
                    yield name, value
        level = below


def _from_text(text: str) -> Any:
    if len(text) > _LONGEST_TEXT:
        return text
    try:
        return parse_json(text.encode("utf-8", "replace"))
    except ValueError:
        return [part.strip() for part in text.split(",")] if "," in text else text


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _numbers(value: Any) -> tuple[float, ...] | None:
    """Returns the numbers of a number, a text with commas, or a list; None where it holds anything else or nothing."""
    if isinstance(value, str):
        value = _from_text(value)
    values = value if isinstance(value, (list, tuple)) else (value,)
    try:
        numbers = tuple(float(each) for each in values if not isinstance(each, bool))
    except (TypeError, ValueError):
        return None
    good = bool(numbers) and len(numbers) == len(values) and all(math.isfinite(each) for each in numbers)
    return numbers if good else None


def _positive(value: Any) -> tuple[float, ...] | None:
    numbers = _numbers(value)
    return numbers if numbers is not None and min(numbers) > 0 else None


def _number(value: Any) -> float | None:
    numbers = _numbers(value)
    return numbers[0] if numbers is not None and len(numbers) == 1 and numbers[0] > 0 else None


def _counts(value: Any) -> int | tuple[int, ...] | None:
    numbers = _numbers(value)
    if numbers is None or any(each < 1 or each != int(each) for each in numbers):
        return None
    return int(numbers[0]) if len(numbers) == 1 else tuple(int(each) for each in numbers)


def _size(value: Any) -> tuple[int, int] | None:
    """Returns height and width of a number, of height and width, or of channels, height and width."""
    counts = _counts(value)
    if isinstance(counts, int):
        return counts, counts
    return (counts[-2], counts[-1]) if counts is not None and len(counts) in (2, 3) else None


def _one_of(*names: str) -> Parser:
    return lambda value: value if value in names else None


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _texts(value: Any) -> tuple[str, ...] | None:
    good = isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value)
    return tuple(value) if good and value else None


_KEYS: Mapping[str, tuple[str, Parser]] = {
    **dict.fromkeys(("arch", "architecture", "model_name", "model", "vit_arch"), ("architecture", _name)),
    **dict.fromkeys(("num_heads", "num_attention_heads", "n_heads", "heads"), ("num_heads", _counts)),
    **dict.fromkeys(("input_size", "img_size", "image_size"), ("input_size", _size)),
    "mean": ("mean", _numbers),
    "std": ("std", _positive),
    "crop_pct": ("crop_pct", _number),
    "interpolation": ("interpolation", _one_of("bicubic", "bilinear", "lanczos", "nearest")),
    "global_pool": ("global_pool", _one_of("avg", "token")),
    **dict.fromkeys(("layer_norm_eps", "norm_eps"), ("layer_norm_eps", _number)),
    "hidden_act": ("hidden_act", _name),
    "norm_first": ("norm_first", _flag),
    "output_stride": ("output_stride", _counts),
    **dict.fromkeys(("label_names", "class_names"), ("label_names", _texts)),
}
"""Name of an entry, in lower case, to the key of a configuration and the reading of its value."""
