# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from tests.vitedge.mlprogram.mil import executed, inferred


@pytest.mark.parametrize("shape", [(5,), (2, 3), (1, 2, 3, 4)])
@pytest.mark.parametrize("mode", ["EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"])
def test_gelu(mode: str, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32) * 3

    def build(mb, x):
        return mb.gelu(x=x, mode=mode)

    np.testing.assert_allclose(executed(build, {"x": x}), inferred(build, {"x": x}), rtol=1e-5, atol=1e-6)
