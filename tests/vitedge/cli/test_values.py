# SPDX-License-Identifier: Apache-2.0
"""With `options`."""

from __future__ import annotations

import pytest

from vitedge.cli.values import as_typed, parse_batch, parse_overrides, parse_runtime_versions, parse_size
from vitedge.errors import BadRecipe


def test_sizes_batches_and_overrides_are_parsed() -> None:
    assert parse_size("224") == (224, 224)
    assert parse_size("256x192") == (256, 192)
    assert parse_size(None) is None
    assert (parse_batch("4"), parse_batch("dynamic"), parse_batch(None)) == (4, "dynamic", None)
    assert parse_overrides(["heads=3", "mean=0.5,0.4,0.3", "channel-order=bgr", "norm_eps=1e-12"]) == {
        "heads": 3,
        "mean": (0.5, 0.4, 0.3),
        "channel_order": "bgr",
        "norm_eps": 1e-12,
    }
    assert parse_overrides(["labels=0,one,2"]) == {"labels": ("0", "one", "2")}
    for text in ("0", "-1", "1x2x3", "x", ""):
        with pytest.raises(BadRecipe):
            parse_size(text)


def test_what_was_typed_about_a_checkpoint_can_be_typed_again() -> None:
    assert as_typed(None, None) == []
    assert as_typed("ema", ["heads=3", "mean=0,0,0"]) == ["--weights", "ema", "--set", "heads=3", "--set", "mean=0,0,0"]


def test_releases_of_runtimes_are_parsed_by_name() -> None:
    assert parse_runtime_versions(None) is None
    assert parse_runtime_versions(["onnxruntime=1.18", "openvino=2025.0"]) == {
        "onnxruntime": "1.18",
        "openvino": "2025.0",
    }
    for pair in ("1.18", "onnxruntime=", "=1.18"):
        with pytest.raises(BadRecipe, match="NAME=RELEASE"):
            parse_runtime_versions([pair])
