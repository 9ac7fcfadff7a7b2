# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch import Tensor

from vitedge.calibration.observations import SAMPLED_VALUES, Stats, refuse_unusable
from vitedge.errors import UnusableActivations

TOKENS = torch.randn(12, 50, 24, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 9, 24) + 3
MAPS = torch.randn(12, 6, 20, 30, generator=torch.Generator().manual_seed(1))


def observe(values: Tensor, batch: int, axis: int = -1) -> Stats:
    stats = Stats()
    for part in values.split(batch):
        stats.update(part, axis)
    return stats


def assert_same(one: Stats, other: Stats) -> None:
    first, second = one.to_arrays(), other.to_arrays()
    for name in ("minimum", "maximum", "total", "count"):
        assert np.array_equal(first[name], second[name]), name
    assert torch.equal(one.rows, other.rows)


@pytest.mark.parametrize(("values", "axis"), [(TOKENS, -1), (TOKENS, 2), (MAPS, 1), (MAPS[..., 0, 0], -1)])
def test_extremes_mean_and_count_are_those_of_all_values(values: Tensor, axis: int) -> None:
    stats = observe(values, 5, axis)
    flat = values.movedim(axis, -1).reshape(-1, values.shape[axis])
    assert torch.equal(stats.minimum, flat.amin(0))
    assert torch.equal(stats.maximum, flat.amax(0))
    assert torch.allclose(stats.mean, flat.double().mean(0), rtol=1e-5, atol=1e-6)
    assert (stats.count, stats.channels) == flat.shape
    assert (stats.low, stats.high) == (float(values.min()), float(values.max()))
    assert sorted(map(tuple, stats.rows.tolist())) == sorted(map(tuple, flat.tolist()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_taken(dtype: torch.dtype) -> None:
    stats = observe(TOKENS.to(dtype), 4)
    assert stats.rows.dtype == stats.minimum.dtype == torch.float32
    assert stats.high == float(TOKENS.to(dtype).float().max())


def numbered(images: int, rows: int, channels: int) -> Tensor:
    """Every row holds its own number."""
    return torch.arange(images * rows, dtype=torch.float32).reshape(images, rows, 1).expand(-1, -1, channels)


def test_the_sample_does_not_depend_on_the_batch() -> None:
    values = numbered(24, 64, 4096) + torch.rand(24, 64, 4096, generator=torch.Generator().manual_seed(0))
    whole = observe(values, 24)
    assert whole.rows.shape == (SAMPLED_VALUES // 4096, 4096)
    for batch in (1, 7):
        assert_same(observe(values, batch), whole)


def test_the_sample_is_uniform_over_the_stream_and_over_positions() -> None:
    """Also where the number of tokens is a power of two, which a fixed stride would meet at the same positions."""
    numbers = observe(numbered(200, 256, 512), 8).rows[:, 0].long()
    assert len(set(numbers.tolist())) == 512
    for parts, bins in ((numbers // 256 // 20, 10), (numbers % 256 // 16, 16), (numbers % 16, 16)):
        counts = torch.bincount(parts, minlength=bins).float()
        expected = 512 / bins
        # 99.99 % points of chi-squared with 9 and 15 degrees of freedom.
        assert float(((counts - expected) ** 2 / expected).sum()) < (33.7 if bins == 10 else 44.3)


def test_its_first_rows_are_a_sample_of_the_same_kind() -> None:
    numbers = observe(numbered(40, 256, 512), 8).rows[:256, 0]
    assert float(numbers.mean()) == pytest.approx(40 * 256 / 2, rel=0.1)


def test_activations_with_as_many_rows_keep_the_same_tokens() -> None:
    wide, narrow = observe(numbered(20, 200, 1024), 4), observe(numbered(20, 200, 512), 4)
    assert torch.equal(wide.rows[:, 0], narrow.rows[:256, 0])


def test_memory_is_constant() -> None:
    stats = Stats()
    sizes = []
    for _ in range(12):
        stats.update(torch.randn(4, 100, 1000))
        sizes.append(sum(array.nbytes for array in stats.to_arrays().values()))
    assert len(set(sizes[2:])) == 1
    assert sizes[-1] < SAMPLED_VALUES * 4 + 30_000


def test_an_affine_map_needs_no_second_pass() -> None:
    generator = torch.Generator().manual_seed(2)
    scale = torch.rand(24, generator=generator) * 4 + 0.1
    scale[3] = -2.0
    shift = torch.randn(24, generator=generator)
    stats = observe(TOKENS, 4)
    before = stats.to_arrays()["rows"].copy()
    mapped, expected = stats.affine(scale, shift), observe((TOKENS - shift) / scale, 4)
    for name in ("minimum", "maximum", "rows"):
        assert torch.allclose(getattr(mapped, name), getattr(expected, name), rtol=1e-5, atol=1e-6), name
    assert torch.allclose(mapped.mean, expected.mean, rtol=1e-5, atol=1e-6)
    assert np.array_equal(stats.to_arrays()["rows"], before)


def test_what_was_kept_as_arrays_goes_on() -> None:
    values = torch.randn(10, 100, 2048, generator=torch.Generator().manual_seed(3))
    stats = observe(values[:4], 2)
    restored = Stats.from_arrays({name: array.copy() for name, array in stats.to_arrays().items()})
    for part in values[4:].split(2):
        restored.update(part)
        stats.update(part)
    whole = stats.to_arrays()
    assert all(np.array_equal(array, whole[name]) for name, array in restored.to_arrays().items())
    assert Stats.from_arrays(Stats().to_arrays()).channels == 0


@pytest.mark.parametrize("name", ["minimum", "total", "rows", "hashes", "count"])
def test_arrays_that_do_not_fit_are_refused(name: str) -> None:
    arrays = observe(TOKENS, 4).to_arrays()
    with pytest.raises(ValueError, match="fit"):
        Stats.from_arrays({**arrays, name: arrays[name][:-1]})
    with pytest.raises(ValueError, match="an activation has"):
        Stats.from_arrays({key: array for key, array in arrays.items() if key != name})


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_remembered_and_named(poison: float) -> None:
    stats = {name: observe(TOKENS, 4) for name in ("blocks.0.norm1", "blocks.3.mlp.fc1", "blocks.4.norm1")}
    refuse_unusable(stats)
    spoiled = TOKENS[:2].clone()
    spoiled[1, 17, 5] = poison
    for name in ("blocks.4.norm1", "blocks.3.mlp.fc1"):
        stats[name].update(spoiled)
        stats[name].update(TOKENS)
    with pytest.raises(UnusableActivations, match=r"^blocks\.3\.mlp\.fc1 computes NaN or infinity"):
        refuse_unusable(stats)


def test_other_channels_are_a_mistake_of_the_caller_and_nothing_is_nothing() -> None:
    stats = observe(TOKENS, 4)
    with pytest.raises(ValueError, match="24 channels came with 23"):
        stats.update(TOKENS[..., 1:])
    stats.update(TOKENS[:0])
    assert stats.count == 600


def test_a_sample_for_the_estimators_has_the_exact_extremes() -> None:
    values = torch.randn(40, 300, 512, generator=torch.Generator().manual_seed(4))
    stats = observe(values, 8)
    sample = stats.sample(torch.ones(512))
    assert sample.values.size == SAMPLED_VALUES
    assert sample.extremes == (float(values.min()), float(values.max()))


def test_observing_costs_a_small_part_of_the_layer() -> None:
    values, weight = torch.randn(8, 197, 3072), torch.randn(768, 3072)
    stats = Stats()
    stats.update(values)

    def shortest(action: object) -> float:
        times = []
        for _ in range(4):
            begun = time.perf_counter()
            action()  # type: ignore[operator]
            times.append(time.perf_counter() - begun)
        return min(times)

    layer = shortest(lambda: torch.nn.functional.linear(values, weight))
    assert shortest(lambda: stats.update(values)) < 0.35 * layer
