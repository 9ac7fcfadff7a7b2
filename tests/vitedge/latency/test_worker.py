# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from vitedge.errors import BadRecipe
from vitedge.latency.model import MeasuredModel
from vitedge.latency.worker import make_feeds
from vitedge.records import TensorSpec


def test_feeds_have_the_declared_shapes_types_and_ranges() -> None:
    inputs = (TensorSpec("image", ("n", 3, 8, 8), "float16"), TensorSpec("raw", ("n", 3, 8, 8), "uint8"))
    batch, feeds = make_feeds(inputs, MeasuredModel("a", "onnxruntime", "", batch=5))
    assert batch == 5
    assert (feeds["image"].shape, feeds["image"].dtype) == ((5, 3, 8, 8), np.float16)
    assert 0.8 < feeds["image"].astype(np.float32).std() < 1.2
    assert (feeds["raw"].dtype, feeds["raw"].max() > 200) == (np.uint8, True)
    assert make_feeds(inputs, MeasuredModel("a", "onnxruntime", ""))[0] == 1


def test_a_fixed_batch_is_taken_and_not_overruled() -> None:
    fixed = (TensorSpec("image", (4, 3), "float32"),)
    assert make_feeds(fixed, MeasuredModel("a", "onnxruntime", ""))[0] == 4
    with pytest.raises(BadRecipe, match="fixed batch of 4, not 8; leave --batch out, or export it with --batch 8"):
        make_feeds(fixed, MeasuredModel("a", "onnxruntime", "", batch=8))
    with pytest.raises(BadRecipe, match="dynamic axis beside the batch in image"):
        make_feeds((TensorSpec("image", (1, 3, "height", 8), "float32"),), MeasuredModel("a", "onnxruntime", ""))
