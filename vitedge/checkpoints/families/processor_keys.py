# SPDX-License-Identifier: Apache-2.0
"""The keys of Hugging Face's image processors, and their defaults, as data.

Those of timm's ``pretrained_cfg`` are in `vitedge.checkpoints.keys.timm`.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

HONOURED = frozenset(
    {
        "do_resize",
        "size",
        "default_to_square",
        "resample",
        "do_center_crop",
        "crop_size",
        "crop_pct",
        "do_rescale",
        "rescale_factor",
        "do_normalize",
        "image_mean",
        "image_std",
        "do_flip_channel_order",
        "do_convert_rgb",
        "image_processor_type",
        "feature_extractor_type",
    }
)
"""Keys of a processor that decide what it makes of one image."""

IRRELEVANT = frozenset(
    {
        "do_reduce_labels",  # segmentation maps
        "reduce_labels",
        "pad_size",  # read with do_pad alone
        "data_format",
        "input_data_format",
        "return_tensors",
        "disable_grouping",
        "device",
        "processor_class",
        "auto_map",
        "_valid_processor_keys",
        "_processor_class",
        "image_seq_length",
    }
)
"""Keys that change neither pixels nor their order, or that only say how arrays are handed over."""

REFUSED_UNLESS_FALSE = frozenset({"do_pad"})
"""Switches of steps that vitedge does not have."""

OF_ONE_CLASS = {"crop_pct": "ConvNext", "do_flip_channel_order": "MobileViT"}
"""Key to the start of the name of the one class that reads it; where a file names no class it is taken to be of it."""

_SQUASH = {"do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255}
_HALF: dict[str, Any] = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
_CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_SHORT = {"size": {"shortest_edge": 224}, "default_to_square": False}
_CROP = {"do_center_crop": True, "crop_size": {"height": 224, "width": 224}}
_SQUARE = {"size": {"height": 224, "width": 224}}

DEFAULTS: MappingProxyType[str, dict[str, Any]] = MappingProxyType(
    {
        "ViT": {**_SQUASH, **_HALF, **_SQUARE, "resample": 2},
        "DeiT": {**_SQUASH, **_HALF, **_CROP, "size": {"height": 256, "width": 256}, "resample": 3},
        "Beit": {**_SQUASH, **_HALF, **_CROP, **_SQUARE, "do_center_crop": False, "resample": 3},
        "Siglip": {**_SQUASH, "do_convert_rgb": True, **_HALF, **_SQUARE, "default_to_square": False, "resample": 3},
        "Bit": {**_SQUASH, "do_convert_rgb": True, **_CLIP, **_SHORT, **_CROP, "resample": 3},
        "CLIP": {**_SQUASH, "do_convert_rgb": True, **_CLIP, **_SHORT, **_CROP, "resample": 3},
        "Levit": {**_SQUASH, **_IMAGENET, **_SHORT, **_CROP, "resample": 3},
        "ConvNext": {
            **_SQUASH,
            **_HALF,
            "size": {"shortest_edge": 384},
            "default_to_square": False,
            "crop_pct": 224 / 256,
            "resample": 3,
        },
        "MobileViT": {
            **_SQUASH,
            **_HALF,
            **_SHORT,
            "do_center_crop": True,
            "crop_size": {"height": 256, "width": 256},
            "do_normalize": False,
            "do_flip_channel_order": True,
            "resample": 3,
        },
    }
)
"""Class of an image processor, without ``ImageProcessor``, to the values of keys that its file leaves out."""
