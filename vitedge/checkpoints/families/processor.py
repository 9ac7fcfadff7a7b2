# SPDX-License-Identifier: Apache-2.0
"""Reads how images are prepared from timm's ``pretrained_cfg`` or Hugging Face's ``preprocessor_config.json``."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from vitedge.checkpoints.families.configuration import edges
from vitedge.checkpoints.families.family import Hints
from vitedge.checkpoints.families.processor_keys import (
    DEFAULTS,
    HONOURED,
    IRRELEVANT,
    OF_ONE_CLASS,
    REFUSED_UNLESS_FALSE,
)
from vitedge.errors import UnknownArchitecture
from vitedge.records import Origin, Preprocessing

_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, which ``preprocessor_config.json`` uses."""
_LARGEST_EDGE = 2**15
"""Pixels of an edge that images are resized to."""


def find_preprocessing(
    hints: Hints, table: Preprocessing, channels: int
) -> tuple[Preprocessing, dict[str, Origin], tuple[str, ...]]:
    """Returns the preprocessing: a configuration's values, and the table's entry for everything else.

    Args:
        hints: the configuration.
        table: what the family's published models use.
        channels: of the model's input; a mean and a std of the table that have another length are averaged over.

    Returns:
        The preprocessing, the origin of each of its fields, and notes.

    Raises:
        UnknownArchitecture: a key or a value of the configuration that vitedge cannot follow; the sentence names it.
    """
    processor, notes = _from_hugging_face(hints.preprocessor)
    found = {**_from_timm(hints.config), **processor}
    origins = {
        f"preprocessing.{field.name}": Origin.CONFIG if field.name in found else Origin.TABLE
        for field in dataclasses.fields(Preprocessing)
    }
    for name, key in (("mean", "image_mean"), ("std", "image_std")):
        if name not in found and len(getattr(table, name)) != channels:
            found[name] = (sum(getattr(table, name)) / len(getattr(table, name)),)
            origins[f"preprocessing.{name}"] = Origin.ASSUMED
        elif name in found and len(found[name]) not in (1, channels) and name not in hints.overrides:
            raise _refusal(
                key if name in processor else name, found[name], f"one number, or {channels} for {channels} channels"
            )
        if name in found and len(found[name]) == 1:
            found[name] *= channels
    merged = dataclasses.replace(table, **found)
    # The values are set afterwards; what is given needs no note.
    given = {name: Origin.GIVEN for name in origins if name.removeprefix("preprocessing.") in hints.overrides}
    return merged, origins | given, notes


def size_notes(stated: Mapping[str, Any], image_size: tuple[int, int]) -> tuple[str, ...]:
    """Returns the note on a processor whose images have another size than the model.

    Args:
        stated: the content of ``preprocessor_config.json``, as `find_preprocessing` passed it.
        image_size: height and width in pixels that the model is built for.
    """
    made = _made_size(_completed(stated)) if stated else None
    if made in (None, image_size):
        return ()
    theirs, own = ("x".join(map(str, size)) for size in (made or image_size, image_size))
    return (
        f"preprocessor_config.json makes images of {theirs}, and the model is built for {own}: images are brought to "
        f"that size (--image-size {theirs} exports it at the processor's).",
    )


def _made_size(processor: Mapping[str, Any]) -> tuple[int, int] | None:
    """Returns height and width of what a processor makes of every image; None where they follow the image."""
    cropped = processor.get("crop_size") if processor.get("do_center_crop", "crop_size" in processor) else None
    size = cropped or processor.get("size")
    if not size:
        return None
    if isinstance(size, Mapping):
        is_fixed = "height" in size
    else:
        is_fixed = not isinstance(size, (int, float)) or bool(processor.get("default_to_square", True))
    return edges(size) if is_fixed or cropped or "crop_pct" in processor else None


def _completed(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a processor states, and the defaults of its class for what it does not."""
    return {**_defaults(stated), **{key: value for key, value in stated.items() if value is not None}}


def _from_timm(config: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: tuple(float(value) for value in config[name]) for name in ("mean", "std") if config.get(name)
    }
    if config.get("interpolation"):
        found["interpolation"] = _known("interpolation", str(config["interpolation"]), tuple(_RESAMPLING.values()))
    if config.get("crop_pct"):
        found["crop"] = float(config["crop_pct"])
    if config.get("crop_mode"):
        found["crop_mode"] = _known("crop_mode", str(config["crop_mode"]), ("center", "squash", "border"))
    if found:
        found |= {"exif": False, "transparency": "dropped"}
    return found


def _known(key: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise _refusal(key, value, f"known are {', '.join(choices)}")
    return value


def _refusal(key: str, value: object, known: str) -> UnknownArchitecture:
    return UnknownArchitecture(
        f"The image configuration says {key} = {value!r}, which vitedge cannot follow ({known}): "
        "mend that key, or remove it and state the preprocessing with --set."
    )


def _from_hugging_face(stated: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns the fields of `Preprocessing` that a processor states, and notes."""
    if not stated:
        return {}, ()
    processor = _completed(stated)
    _refuse_unknown(processor)
    name = str(processor.get("image_processor_type", ""))
    if name:
        processor = {key: value for key, value in processor.items() if name.startswith(OF_ONE_CLASS.get(key, ""))}
    # Asked to convert, a processor lays transparency over white; the library's loader drops it before the others.
    transparency = "white" if processor.get("do_convert_rgb") else "dropped"
    # The two classes of a processor resize with different libraries; the one that the file names counts.
    resizer = "pillow" if str(processor.get("image_processor_type", "")).endswith("Pil") else "torch"
    found: dict[str, Any] = {"exif": True, "transparency": transparency, "resizer": resizer}
    if "do_flip_channel_order" in processor:
        found["channel_order"] = "bgr" if processor["do_flip_channel_order"] else "rgb"
    if "resample" in processor:
        if processor["resample"] not in _RESAMPLING:
            raise _refusal("resample", processor["resample"], "known are 0 to 3")
        found["interpolation"] = _RESAMPLING[processor["resample"]]
    geometry, notes = _geometry(processor)
    return {**found, **_statistics(processor), **geometry}, notes


def _defaults(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values that a processor's class gives to keys that its file leaves out."""
    name = str(stated.get("image_processor_type") or stated.get("feature_extractor_type") or "")
    if not name:
        return {}
    stem = re.sub(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", name)
    if stem not in DEFAULTS:
        raise _refusal("image_processor_type", name, f"known are those of {', '.join(DEFAULTS)}")
    return {"image_processor_type": name, **DEFAULTS[stem]}


def _refuse_unknown(processor: Mapping[str, Any]) -> None:
    for key, value in processor.items():
        if key in REFUSED_UNLESS_FALSE and value:
            raise _refusal(key, value, "it has no such step")
        if key not in HONOURED | IRRELEVANT | REFUSED_UNLESS_FALSE:
            raise _refusal(key, value, "the key is not known")


def _statistics(processor: Mapping[str, Any]) -> dict[str, Any]:
    """Returns mean and std for pixels divided by 255.

    A processor computes ``(factor * pixel - mean) / std``, which is ``(pixel / 255 - mean / k) / (std / k)`` with
    ``k = 255 * factor``. It normalizes in RGB and flips the channels afterwards.
    """
    keys = ("do_rescale", "rescale_factor", "do_normalize", "image_mean")
    if not any(key in processor for key in keys):
        return {}
    k = 255.0 * float(processor.get("rescale_factor", 1 / 255)) if processor.get("do_rescale", True) else 255.0
    if not k > 0 or not math.isfinite(k):
        raise _refusal("rescale_factor", processor["rescale_factor"], "a positive number")
    mean, std = [0.0], [1.0]
    if processor.get("do_normalize", False):
        if "image_mean" not in processor or "image_std" not in processor:
            raise _refusal("do_normalize", processor["do_normalize"], "with image_mean and image_std")
        mean, std = (_numbers(processor[key]) for key in ("image_mean", "image_std"))
    elif "do_normalize" not in processor and k == 1:
        return {}  # a file without the key and without a class: the family's table knows better
    step = -1 if processor.get("do_flip_channel_order") else 1
    return {"mean": tuple(value / k for value in mean[::step]), "std": tuple(value / k for value in std[::step])}


def _numbers(value: Any) -> list[float]:
    return [float(one) for one in (value if isinstance(value, (list, tuple)) else (value,))]


def _geometry(processor: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns crop, crop mode and the rounding of the crop's place, and notes."""
    if not processor.get("do_resize", True):
        raise _refusal("do_resize", processor["do_resize"], "it resizes every image to the model's size")
    size = processor.get("size")
    if not size:
        return {}, ()
    if isinstance(size, (int, float)):
        square = processor.get("default_to_square", True)
        size = {"height": size, "width": size} if square else {"shortest_edge": size}
    elif not isinstance(size, Mapping):
        size = {"height": size[0], "width": size[1]}
    size = {key: int(value) for key, value in size.items() if value is not None}
    cropped = processor.get("crop_size") if processor.get("do_center_crop", "crop_size" in processor) else None
    for key, lengths in (("size", tuple(size.values())), ("crop_size", edges(cropped) if cropped else ())):
        if not all(1 <= length <= _LARGEST_EDGE for length in lengths):
            raise _refusal(key, processor[key], f"edges of 1 to {_LARGEST_EDGE} pixels")
    # The two classes of a processor differ where a margin of padding is odd; the one that the file names counts.
    found = {"crop_offset": "ceil" if str(processor.get("image_processor_type", "")).endswith("Pil") else "floor"}
    if set(size) == {"height", "width"}:
        return {**found, **_squash(edges(size), edges(cropped) if cropped else edges(size))}, ()
    if set(size) != {"shortest_edge"}:
        raise _refusal("size", dict(size), "known are height and width, or shortest_edge")
    geometry, notes = _short_side(processor, size["shortest_edge"], edges(cropped) if cropped else None)
    return {**found, **geometry}, notes


def _squash(size: tuple[int, int], cropped: tuple[int, int]) -> dict[str, Any]:
    shares = [_share(part, whole) for part, whole in zip(cropped, size, strict=True)]
    share = max(shares)
    if any(math.floor(part / share) != whole for part, whole in zip(cropped, size, strict=True)):
        raise _refusal("crop_size", cropped, f"one share of {size[0]} x {size[1]} on both edges")
    return {"crop": share, "crop_mode": "squash"}


def _short_side(
    processor: Mapping[str, Any], edge: int, cropped: tuple[int, int] | None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    name = str(processor.get("image_processor_type", ""))
    if "crop_pct" in processor:
        # ConvNeXt's processor: below 384 pixels a centre crop of the enlarged image, else both edges at once.
        if edge >= 384:
            return _squash((edge, edge), (edge, edge)), ()
        cropped, edge = (edge, edge), int(edge / float(processor["crop_pct"]))
    if name.startswith("Levit"):
        edge = int(256 / 224 * edge)
    found = {"crop_mode": "center"}
    if cropped is None:
        note = "The processor resizes the short side and crops nothing; the centre square is taken here."
        return {**found, "crop": 1.0}, (note,)
    if cropped[0] != cropped[1]:
        raise _refusal("crop_size", cropped, "a square, where size is the shortest edge")
    return {**found, "crop": _share(cropped[0], edge)}, ()


def _share(part: int, whole: int) -> float:
    """Returns the crop from which ``floor(part / crop)`` is exactly the resized edge."""
    share = part / whole
    return share if math.floor(part / share) == whole else math.nextafter(share, 0.0)
