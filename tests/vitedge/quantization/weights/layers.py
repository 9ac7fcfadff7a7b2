# SPDX-License-Identifier: Apache-2.0
"""Small layers, and rows like those of a trained transformer: correlated, of a mean, with a few outlier channels."""

from __future__ import annotations

import torch
from torch import Tensor

from vitedge.calibration.moments import InputStatistics


def weight(channels: int = 24, elements: int = 64, seed: int = 0) -> Tensor:
    return 0.05 * torch.randn(channels, elements, generator=torch.Generator().manual_seed(seed))


def rows(count: int = 512, elements: int = 64, seed: int = 1, groups: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(groups, elements // 4, elements, generator=generator)
    values = torch.randn(groups, count, elements // 4, generator=generator) @ mixing
    values += 0.3 * torch.randn(groups, count, elements, generator=generator) + 0.5
    values[:, :, 3] *= 30
    return values


def statistics(**options: int) -> InputStatistics:
    return InputStatistics.of(rows(**options))
