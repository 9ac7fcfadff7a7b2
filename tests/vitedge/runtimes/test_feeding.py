# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.vitedge.images.specs import make_spec
from vitedge.images.preprocess import normalize
from vitedge.records import Artifact, TensorSpec
from vitedge.runtimes.feeding import DYNAMIC_BATCH, as_input, batches, inputs, joined, output_names

SPEC = make_spec((4, 4))
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 3, 4, 4), np.uint8)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_a_fixed_batch_is_filled_from_the_beginning(kind: Any) -> None:
    found = [batch.tolist() for batch in batches(kind(np.arange(5)), 2)]
    assert found == [[0, 1], [2, 3], [4, 0]]
    assert [batch.tolist() for batch in batches(kind(np.arange(2)), 5)] == [[0, 1, 0, 1, 0]]


def test_a_dynamic_batch_is_cut_at_the_end() -> None:
    found = [len(batch) for batch in batches(np.arange(2 * DYNAMIC_BATCH + 1), "batch")]
    assert found == [DYNAMIC_BATCH, DYNAMIC_BATCH, 1]
    assert [len(batch) for batch in batches(np.arange(3), "batch", 2)] == [2, 1]


def test_an_input_gets_what_it_takes() -> None:
    def fed(dtype: str) -> np.ndarray:
        return as_input(PIXELS, TensorSpec("image", (1, 3, 4, 4), dtype), SPEC)

    assert fed("uint8") is PIXELS
    np.testing.assert_array_equal(fed("float32"), normalize(PIXELS, SPEC.preprocessing))
    assert (fed("float32").dtype, fed("float16").dtype) == (np.float32, np.float16)


def test_what_fills_a_batch_is_cut_off_again() -> None:
    image = TensorSpec("image", (4, 3, 4, 4), "uint8")
    parts = [{"theirs": batch.reshape(4, -1)} for batch in inputs(PIXELS, image, SPEC)]
    found = joined(parts, len(PIXELS), {"ours": "theirs", "absent": "absent"})
    assert list(found) == ["ours"]
    np.testing.assert_array_equal(found["ours"], PIXELS.reshape(6, -1))


def test_outputs_of_another_name_keep_their_order() -> None:
    specs = (TensorSpec("a", (1,), "float32"), TensorSpec("b", (1,), "float32"))
    artifact = Artifact("onnx", "model.onnx", "", 0, "fp32", "opset 18", (), specs)
    assert output_names(("tokens", "pooled"), artifact) == {"tokens": "a", "pooled": "b"}
    assert output_names(("b",), artifact) == {"b": "b"}
    assert output_names(("logits",), artifact) == {"logits": "logits"}
