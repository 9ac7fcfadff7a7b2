# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.vitedge.quantization import small_models as small
from vitedge.images.preprocess import normalize
from vitedge.parity.simulation import simulate

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)


@pytest.mark.parametrize("batch", ["dynamic", 1, 3])
def test_all_images_are_simulated_at_any_batch(batch: int | str) -> None:
    program = small.captured(small.Mixture, batch)
    images = torch.from_numpy(normalize(PIXELS, program.spec.preprocessing))
    with torch.no_grad():
        expected = small.built(small.Mixture)(images).numpy()
    (name, found), *others = simulate(program, PIXELS).items()
    assert (name, others) == ("logits", [])
    assert found.shape == (5, 5)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
