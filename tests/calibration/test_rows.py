# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch import nn

from vitedge.calibration.rows import Window, convolution_rows, linear_rows


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_the_product_of_rows_and_weight_is_the_convolution(groups: int) -> None:
    generator = torch.Generator().manual_seed(groups)
    layer = nn.Conv2d(6, 12, (3, 5), (2, 1), (1, 2), (1, 2), groups=groups, bias=False, dtype=torch.float64)
    images = torch.randn(2, 6, 9, 11, generator=generator, dtype=torch.float64)
    window = Window((3, 5), (2, 1), (1, 2), (1, 2), groups)
    weight = layer.weight.detach().reshape(groups, 12 // groups, -1)
    found = convolution_rows(images, window) @ weight.transpose(1, 2)
    split = layer(images).detach().reshape(2, groups, 12 // groups, -1)
    expected = split.permute(1, 0, 3, 2).reshape(groups, -1, 12 // groups)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_the_rows_of_a_linear_are_its_tokens_in_order() -> None:
    inputs = torch.arange(24.0).reshape(2, 3, 4)
    assert linear_rows(inputs).shape == (1, 6, 4)
    torch.testing.assert_close(linear_rows(inputs)[0, 4], inputs[1, 1])
