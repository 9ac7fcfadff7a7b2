# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table

from vitedge.models.relative_positions import resample_biases


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")  # timm indexes so
@pytest.mark.filterwarnings("ignore:torch.searchsorted")
@pytest.mark.parametrize("extra", [0, 3])
@pytest.mark.parametrize(
    ("old", "new"), [((7, 7), (12, 12)), ((14, 14), (9, 9)), ((4, 4), (14, 5)), ((6, 4), (3, 8)), ((7, 7), (1, 1))]
)
def test_tables_are_those_of_timm(old: tuple[int, int], new: tuple[int, int], extra: int) -> None:
    rows, wanted = ((2 * height - 1) * (2 * width - 1) + extra for height, width in (old, new))
    table = torch.randn(rows, 3, generator=torch.Generator().manual_seed(0))
    expected = resize_rel_pos_bias_table(table, new, (wanted, 3), old_window_size=old)
    found = resample_biases(table, old, new)
    assert found.shape == (wanted, 3)
    assert (found - expected).abs().max() < 2e-5
    assert torch.equal(found[wanted - extra :], table[rows - extra :])


def test_type_is_kept_and_the_same_window_is_the_same_tensor() -> None:
    table = torch.randn(49, 2).half()
    assert resample_biases(table, (4, 4), (4, 4)) is table
    assert resample_biases(table, (4, 4), (5, 5)).dtype == torch.float16


def test_near_distances_keep_their_bias_when_the_window_grows() -> None:
    table = torch.arange(49.0).reshape(49, 1)
    grown = resample_biases(table, (4, 4), (8, 8)).reshape(15, 15)
    assert torch.allclose(grown[6:9, 6:9], table.reshape(7, 7)[2:5, 2:5])
