# SPDX-License-Identifier: Apache-2.0
"""The kinds of value that the keys of ``preprocessor_config.json`` hold, and the check that none holds another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vitedge.checkpoints.keys.meaning import (
    is_count,
    is_deviations,
    is_name,
    is_number,
    is_positive,
    is_share,
    is_size,
    is_statistics,
)
from vitedge.errors import UnknownArchitecture
from vitedge.sentences import abridged


def _is_switch(value: Any) -> bool:
    return isinstance(value, bool)


def _is_resampling(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 3


def _is_any_size(value: Any) -> bool:
    """Returns whether a value is a size, or a mapping of other edges, which are judged where they are read."""
    if isinstance(value, Mapping):
        return bool(value) and all(edge is None or (is_count(edge) and edge > 0) for edge in value.values())
    return is_size(value)


_SWITCH: tuple[Callable[[Any], bool], str] = (_is_switch, "true or false")
_PIXELS = "pixels above 0, as a number, a pair, or height and width"
KINDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"), _SWITCH),
    **dict.fromkeys(("do_flip_channel_order", "do_pad", "default_to_square"), _SWITCH),
    "size": (_is_any_size, _PIXELS),
    "crop_size": (is_size, _PIXELS),
    "resample": (_is_resampling, "known are 0 to 3"),
    "crop_pct": (is_share, "a share above 0 and at most 1"),
    "rescale_factor": (is_positive, "a positive number"),
    "image_mean": (lambda value: is_number(value) or is_statistics(value), "a number, or one for each channel"),
    "image_std": (
        lambda value: is_positive(value) or is_deviations(value),
        "a number above 0, or one for each channel",
    ),
    **dict.fromkeys(("image_processor_type", "feature_extractor_type"), (is_name, "the name of a class")),
}
"""Key to the check of its value, and to what the check demands, in words. The other keys are refused or irrelevant."""


def check_processor(stated: Mapping[str, Any]) -> None:
    """Refuses values that no processor could work with, before sizes and statistics are read from them.

    Args:
        stated: the content of ``preprocessor_config.json``; null says nothing.

    Raises:
        UnknownArchitecture: names the key and its value.
    """
    for key, value in stated.items():
        kind, words = KINDS.get(key, (None, ""))
        if kind is not None and value is not None and not kind(value):
            raise UnknownArchitecture(
                f"preprocessor_config.json says {key} = {abridged(value)}, which vitedge cannot follow ({words}): "
                "mend that key, or remove it and state the preprocessing with --set."
            )
