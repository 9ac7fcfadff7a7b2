# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from vitedge.calibration.ranges import (
    ESTIMATORS,
    INT8,
    INT16,
    UINT8,
    UINT16,
    Levels,
    Range,
    Sample,
    choose_range,
    entropy,
    min_max,
    mse,
    percentile,
    to_scale,
)
from vitedge.errors import UnusableActivations

SIGNED_ASYMMETRIC = Levels(-128, 127, symmetric=False)
LEVELS = {"uint8": UINT8, "int8": INT8, "signed asymmetric": SIGNED_ASYMMETRIC, "int16": INT16, "uint16": UINT16}
EIGHT_BITS = ("uint8", "int8", "signed asymmetric")


def drawn(kind: str, count: int = 20_000, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(count, generator=generator)
    if kind == "gelu":
        return torch.nn.functional.gelu(normal * 2)
    if kind == "softmax":
        return torch.softmax(normal.reshape(-1, 50) * 3, 1).flatten()
    if kind == "outliers":
        return normal * torch.where(torch.rand(count, generator=generator) < 0.01, 32.0, 1.0)
    if kind == "heavy":
        return normal / torch.rand(count, generator=generator).clamp_min(1e-3)
    if kind == "negative":
        return -normal.abs() - 2
    return normal


KINDS = ("normal", "gelu", "softmax", "outliers", "heavy", "negative")


def make_sample(values: Tensor, importance: Tensor | None = None) -> Sample:
    return Sample(values, float(values.min()), float(values.max()), importance)


def rounding_error(values: Tensor, covered: Range, levels: Levels) -> Tensor:
    """Element by element, in float32, with the operator that a quantized program holds."""
    scale, zero = to_scale(*covered, levels)
    integers = torch.clamp(torch.round(values * (1.0 / torch.tensor(scale))) + zero, levels.lowest, levels.highest)
    return ((integers - zero) * scale - values).double() ** 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("integers", LEVELS)
def test_the_error_is_that_of_rounding_every_value(kind: str, integers: str) -> None:
    values, levels = drawn(kind).reshape(-1, 50), LEVELS[integers]
    importance = torch.rand(50, generator=torch.Generator().manual_seed(1)) + 0.1
    plain, weighted = make_sample(values), make_sample(values, importance)
    for share in (1.0, 0.7, 0.2):
        covered = Range(*(end * share for end in plain.extremes))
        expected = rounding_error(values, covered, levels)
        tolerance = 1e-3 if integers in EIGHT_BITS else 2e-2  # float32 rounds next to 65536 levels
        assert plain.error(covered, levels) == pytest.approx(float(expected.mean()), rel=tolerance)
        wanted = float((expected * importance).sum() / (importance.sum() * len(values)))
        assert weighted.error(covered, levels) == pytest.approx(wanted, rel=tolerance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("integers", LEVELS)
def test_every_range_includes_zero_and_nothing_that_is_never_reached(kind: str, integers: str) -> None:
    sample = make_sample(drawn(kind))
    for name, estimator in ESTIMATORS.items():
        low, high = estimator(sample, LEVELS[integers])
        assert sample.extremes.low <= low <= 0.0 <= high <= sample.extremes.high, name
        assert low < high, name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("integers", EIGHT_BITS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_search_is_never_worse_than_the_others(kind: str, integers: str, seed: int) -> None:
    values, levels = drawn(kind, 5000, seed), LEVELS[integers]
    sample = make_sample(values)
    searched = float(rounding_error(values, mse(sample, levels), levels).mean())
    assert searched <= float(rounding_error(values, min_max(sample, levels), levels).mean()) * (1 + 1e-4)
    for name, estimator in ESTIMATORS.items():
        assert searched <= sample.error(estimator(sample, levels), levels) * 1.02, name
    choice = choose_range(sample, levels)
    assert choice.error == min(sample.error(estimator(sample, levels), levels) for estimator in ESTIMATORS.values())
    assert sample.error(choice.covered, levels) == choice.error


@pytest.mark.parametrize("kind", KINDS)
def test_the_search_finds_what_all_pairs_of_ends_would(kind: str) -> None:
    sample = make_sample(drawn(kind, 5000))
    shares = np.linspace(0.02, 1.0, 80)
    low, high = np.meshgrid(sample.extremes.low * shares, sample.extremes.high * shares)
    pairs = np.stack([low.ravel(), high.ravel()], axis=1)
    exhaustive = float(sample.errors(pairs, UINT8).min())
    assert sample.error(mse(sample, UINT8), UINT8) <= 1.03 * exhaustive


def test_the_lower_end_of_gelu_is_not_clipped_in_step_with_the_upper() -> None:
    values = torch.cat([drawn("gelu", 400_000), torch.full((1,), 16.0)])
    low, high = mse(make_sample(values), UINT8)
    assert low < -0.15
    assert high < 12


def test_percentiles_leave_their_share_beyond() -> None:
    values = drawn("heavy", 100_000)
    sample = make_sample(values)
    low, high = percentile(sample, UINT8, 0.999)
    assert int((values < low).sum()) == pytest.approx(100, abs=2)
    assert int((values > high).sum()) == pytest.approx(100, abs=2)
    low, high = percentile(sample, INT8, 0.999)
    assert low == -high
    assert int((values.abs() > high).sum()) == pytest.approx(100, abs=2)


def test_exact_extremes_beyond_the_sample_are_covered_by_min_max() -> None:
    values = drawn("normal")
    sample = Sample(values, -9.0, 11.0)
    assert min_max(sample, UINT8) == (-9.0, 11.0)
    assert percentile(sample, UINT8, 0.9999)[1] < 5.0


@pytest.mark.parametrize("integers", EIGHT_BITS)
def test_entropy_clips_a_far_outlier_and_keeps_what_is_uniform(integers: str) -> None:
    even = torch.linspace(-1, 1, 40_000)
    assert entropy(make_sample(even), LEVELS[integers]) == pytest.approx((-1.0, 1.0), abs=0.02)
    lonely = torch.cat([drawn("normal", 200_000), torch.tensor([30.0, -30.0])])
    low, high = entropy(make_sample(lonely), LEVELS[integers])
    assert 2.5 < high < 10
    assert -10 < low < -2.5


def test_importance_decides_whose_outliers_count() -> None:
    values = torch.randn(2000, 32, generator=torch.Generator().manual_seed(0))
    values[:, 5] *= 40
    needless, needed = torch.ones(32), torch.ones(32)
    needless[5], needed[5] = 1e-6, 1e3
    narrow, wide = (mse(make_sample(values, importance), INT8).high for importance in (needless, needed))
    assert narrow < 10
    assert wide > 50
    nothing = make_sample(values, torch.zeros(32))
    assert mse(nothing, INT8) == mse(make_sample(values), INT8)


def test_the_choice_is_among_the_estimators_that_are_named() -> None:
    sample = make_sample(drawn("outliers"))
    assert choose_range(sample, UINT8).estimator != "min-max"
    choice = choose_range(sample, UINT8, ["min-max"])
    assert choice == ("min-max", sample.extremes, sample.error(sample.extremes, UINT8))


DEGENERATE = {
    "zero": [0.0, 0.0, 0.0],
    "one value": [3.5],
    "constant": [2.0] * 9,
    "constant negative": [-2.0] * 9,
    "denormal": [1e-45, -3e-45, 0.0],
    "tiny": [1e-38, 2e-38],
    "largest": [3.3e38, -3.3e38, 1.0],
    "two values": [0.0] * 99 + [1.0],
}


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("integers", LEVELS)
def test_degenerate_activations_have_a_scale(name: str, integers: str) -> None:
    values, levels = torch.tensor(DEGENERATE[name]), LEVELS[integers]
    sample = make_sample(values)
    for key, estimator in ESTIMATORS.items():
        covered = estimator(sample, levels)
        scale, zero = to_scale(*covered, levels)
        assert covered.low <= 0.0 <= covered.high, key
        assert np.isfinite(scale), key
        assert np.float32(1.0) / np.float32(scale) > 0, key
        assert levels.lowest <= zero <= levels.highest, key
    # Half a step and, where the zero point moves the ends, half a step more.
    scale, _ = to_scale(*sample.extremes, levels)
    assert float(rounding_error(values, sample.extremes, levels).max()) ** 0.5 <= 1.001 * scale


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_has_no_range(poison: float) -> None:
    values = drawn("normal")
    for spoiled, low in ((torch.cat([values, torch.tensor([poison])]), -4.0), (values, poison), (values[:0], 0.0)):
        with pytest.raises(UnusableActivations, match="NaN or infinity"):
            Sample(spoiled, low, 4.0)


def test_scales_are_known_values() -> None:
    assert to_scale(0.0, 255.0, UINT8) == (1.0, 0)
    assert to_scale(-1.0, 254.0, UINT8) == (1.0, 1)
    assert to_scale(-1.0, 254.0, SIGNED_ASYMMETRIC) == (1.0, -127)
    assert to_scale(-254.0, 10.0, INT8) == (2.0, 0)
    assert to_scale(3.0, 510.0, UINT8) == (2.0, 0)  # zero is included
    assert to_scale(-510.0, -3.0, UINT8) == (2.0, 255)
    assert to_scale(0.0, 0.0, UINT8) == (1.0, 0)
    assert to_scale(0.0, 0.0, INT8) == (1.0, 0)


@pytest.mark.parametrize("integers", LEVELS)
def test_scales_are_float32_and_meet_zero_and_the_ends(integers: str) -> None:
    levels, generator = LEVELS[integers], np.random.default_rng(0)
    for _ in range(300):
        low, high = np.sort(generator.normal(size=2) * 10.0 ** generator.uniform(-20, 20, 2))
        scale, zero = to_scale(float(low), float(high), levels)
        assert float(np.float32(scale)) == scale > 0
        assert isinstance(zero, int)
        assert levels.lowest <= zero <= levels.highest
        assert zero == 0 or not levels.symmetric
        low, high = min(low, 0.0), max(high, 0.0)
        assert (levels.highest - zero) * scale >= high - 0.51 * scale
        assert (levels.lowest - zero) * scale <= low + 0.51 * scale
