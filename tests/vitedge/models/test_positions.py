# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from timm.layers import resample_abs_pos_embed

from vitedge.errors import ImpossibleSize
from vitedge.models.positions import check_multiple, resize_grid, resize_tokens


@pytest.mark.parametrize("prefix", [0, 1, 2])
@pytest.mark.parametrize("new", [(6, 6), (3, 3), (5, 9)])
def test_tokens_are_resampled_as_timm_does_and_prefix_tokens_are_kept(prefix: int, new: tuple[int, int]) -> None:
    embedding = torch.randn(1, prefix + 16, 8)
    ours = resize_tokens(embedding, (4, 4), new, prefix)
    theirs = resample_abs_pos_embed(embedding, list(new), [4, 4], num_prefix_tokens=prefix)
    assert torch.equal(ours, theirs)
    assert torch.equal(ours[:, :prefix], embedding[:, :prefix])


def test_a_grid_that_is_not_square_keeps_its_rows_and_columns_apart() -> None:
    columns = torch.linspace(0, 1, 6).expand(1, 1, 4, 6)
    resized = resize_grid(columns, (8, 12))
    assert resized.shape == (1, 1, 8, 12)
    assert torch.allclose(resized[..., 0, :], resized[..., -1, :], atol=1e-6)
    assert (resized[..., 1:] >= resized[..., :-1] - 0.02).all()


def test_half_precision_is_computed_in_float32_and_given_back() -> None:
    grid = torch.randn(1, 4, 4, 4)
    resized = resize_grid(grid.half(), (7, 7))
    assert resized.dtype is torch.float16
    assert torch.equal(resized, resize_grid(grid.half().float(), (7, 7)).half())


def test_the_same_size_is_the_same_tensor() -> None:
    grid = torch.randn(1, 4, 4, 4)
    assert resize_grid(grid, (4, 4)) is grid


def test_a_size_between_patches_names_the_nearest_that_work() -> None:
    check_multiple((224, 160), 16, "patch")
    with pytest.raises(ImpossibleSize, match=r"230x230 .* patch of 16 .* 224x224 or 240x240 "):
        check_multiple((230, 230), 16, "patch")
    with pytest.raises(ImpossibleSize, match="224x224 or 224x240"):
        check_multiple((224, 230), 16, "patch")


@pytest.mark.parametrize("size", [(8, 8), (0, 0), (-16, 32)])
def test_a_size_below_one_patch_names_the_smallest(size: tuple[int, int]) -> None:
    with pytest.raises(ImpossibleSize, match="16x"):
        check_multiple(size, 16, "patch")
