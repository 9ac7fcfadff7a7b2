# SPDX-License-Identifier: Apache-2.0
"""From a sample of an activation and its exact extremes to the range that its integers cover.

Every range includes zero, which a grid then meets exactly: padding stays padding, and the zero point is one of the
grid's own integers (arXiv:1712.05877, section 2.1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vitedge.errors import UnusableActivations

Floats = NDArray[np.float64]

SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
"""The smallest float32 whose reciprocal is finite and that no processor flushes to zero."""
LARGEST = float(np.finfo(np.float32).max)
PERCENTILES = (0.999, 0.9999, 0.99999)
SEARCHED_LEVELS = 4096
"""Finer grids are not searched: at 16 bits the rounding error lies 100 dB below the range, and nothing is gained by
clipping."""
GRID_POINTS = 40
"""Shares of an end that the search tries, from 1 to 1/40; twice, for both ends, and once more around the best."""
BINS = 2048
STRIDE = 16
"""TensorRT tries every bin as the threshold; every sixteenth moves the threshold by 0.8 % of the extreme."""


class Range(NamedTuple):
    """The real numbers that the integers cover; ``low <= 0 <= high``."""

    low: float
    high: float


@dataclass(frozen=True)
class Levels:
    """The integers of a grid."""

    lowest: int
    highest: int
    symmetric: bool
    """Whether the zero point has to be 0."""

    @property
    def steps(self) -> int:
        """Steps from the lowest to the highest integer."""
        return self.highest - self.lowest


UINT8 = Levels(0, 255, symmetric=False)
INT8 = Levels(-127, 127, symmetric=True)
UINT16 = Levels(0, 65535, symmetric=False)
INT16 = Levels(-32767, 32767, symmetric=True)


class Sample:
    """Values of an activation, sorted once for all estimators.

    Args:
        values: ``(rows, channels)`` or of one axis, float32.
        low: the exact minimum of the activation, of which the values are a part.
        high: its exact maximum.
        importance: ``(channels,)``, what a squared error of the channel costs; for the input of a linear layer
            ``(weight**2).sum(0)``, by which the squared error of its output grows where errors do not correlate. All
            channels are alike without.

    Raises:
        UnusableActivations: no values, or NaN or infinity among them.
    """

    def __init__(self, values: Tensor, low: float, high: float, importance: Tensor | None = None) -> None:
        flat = values.detach().reshape(-1).numpy().astype(np.float32, copy=False)
        weights = None
        if importance is not None and bool((importance > 0).any()):
            weights = np.broadcast_to(importance.detach().double().numpy(), values.shape).ravel()
        if not flat.size or not np.isfinite([flat.min(), flat.max(), low, high]).all():
            raise UnusableActivations("An activation has no values, or NaN or infinity among them.")
        if weights is None:
            self.values = np.sort(flat)
            self.weights = np.ones(1)
        else:
            order = np.argsort(flat)
            self.values, self.weights = flat[order], weights[order]
        self.extremes = Range(min(0.0, low, float(self.values[0])), max(0.0, high, float(self.values[-1])))
        self._moments: tuple[Floats, Floats, Floats] | None = None
        self._magnitudes: NDArray[np.float32] | None = None

    @property
    def magnitudes(self) -> NDArray[np.float32]:
        """The absolute values, sorted."""
        if self._magnitudes is None:
            self._magnitudes = np.sort(np.abs(self.values))
        return self._magnitudes

    def error(self, covered: Range, levels: Levels) -> float:
        """The mean squared error of the values, rounded to a grid over a range (weighted by importance)."""
        if levels.steps < SEARCHED_LEVELS:
            return float(self.errors(np.array([covered]), levels)[0])
        step, zero = _real_grid(np.array([covered]), levels)
        integers = np.clip(np.rint(self.values / step) + zero, levels.lowest, levels.highest)
        squares = ((integers - zero) * step - self.values) ** 2
        return float(np.average(squares, weights=np.broadcast_to(self.weights, squares.shape)))

    def errors(self, ranges: NDArray[np.float64], levels: Levels) -> Floats:
        """The mean squared errors under several grids at once, ``(ranges, 2)`` to ``(ranges,)``.

        The values that share an integer lie side by side in the sorted sample, so that the sum of their squared
        distances from it, ``sum(w x**2) - 2 c sum(w x) + c**2 sum(w)``, comes of differences of running sums.
        """
        mass, first, second = self._running_sums()
        step, zero = _real_grid(ranges, levels)
        integers = np.arange(levels.lowest, levels.highest + 1)
        centres = (integers - zero) * step
        edges = np.clip((integers[1:] - 0.5 - zero) * step, -LARGEST, LARGEST).astype(np.float32)
        cuts = np.searchsorted(self.values, edges)
        ends = np.full((len(cuts), 1), self.values.size)
        cells = np.concatenate([np.zeros_like(ends), cuts, ends], axis=1)
        masses, firsts, seconds = (np.diff(sums[cells], axis=1) for sums in (mass, first, second))
        total = (seconds - 2.0 * centres * firsts + centres**2 * masses).sum(axis=1)
        found: Floats = np.maximum(total, 0.0) / mass[-1]
        return found

    def _running_sums(self) -> tuple[Floats, Floats, Floats]:
        """Of weight, weighted value and weighted square, each beginning with 0."""
        if self._moments is None:
            values = self.values.astype(np.float64)
            weights = np.broadcast_to(self.weights, values.shape)
            parts = (weights, weights * values, weights * values**2)
            mass, first, second = (np.concatenate([[0.0], np.cumsum(part)]) for part in parts)
            self._moments = mass, first, second
        return self._moments


Estimator = Callable[[Sample, Levels], Range]


def min_max(sample: Sample, levels: Levels) -> Range:
    """The exact extremes: nothing is clipped."""
    del levels
    return sample.extremes


def percentile(sample: Sample, levels: Levels, share: float = 0.9999) -> Range:
    """What leaves ``1 - share`` of the values beyond each end, or beyond both ends of a symmetric grid together.

    Li et al., "Fully quantized network for object detection", CVPR 2019; the shares are those of RepQ-ViT
    (arXiv:2212.08254).
    """
    values = sample.magnitudes if levels.symmetric else sample.values
    last = values.size - 1
    high = float(values[round(share * last)])
    return _within(sample, -high if levels.symmetric else float(values[round((1 - share) * last)]), high)


def mse(sample: Sample, levels: Levels) -> Range:
    """The range under whose grid the sample's mean squared error is the smallest (OMSE, arXiv:1902.06822).

    A symmetric grid has one end to search. The ends of an asymmetric one are searched in turn, the other held: GELU's
    lower end of -0.17 must not shrink in step with the upper.
    """
    best = sample.extremes
    if levels.steps >= SEARCHED_LEVELS:
        return best
    shares = np.linspace(1.0, 1.0 / GRID_POINTS, GRID_POINTS)
    if levels.symmetric:
        return _refine(sample, levels, _search(sample, levels, best, shares, (True, True)), (True, True))
    for ends in ((False, True), (True, False), (False, True), (True, False)):
        # From the extremes again, so that a second look may take back what the first one clipped.
        start = Range(
            sample.extremes.low if ends[0] else best.low,
            sample.extremes.high if ends[1] else best.high,
        )
        best = _better(sample, levels, best, _search(sample, levels, start, shares, ends))
    for ends in ((False, True), (True, False)):
        best = _refine(sample, levels, best, ends)
    return best


def entropy(sample: Sample, levels: Levels) -> Range:
    """The threshold whose clipped and rounded histogram departs least from the clipped one (Kullback-Leibler).

    S. Migacz, "8-bit Inference with TensorRT", GTC 2017: 2048 bins, and each count of a level is spread evenly over
    those of its bins that are not empty. A symmetric grid sees magnitudes in half of its levels; an asymmetric one
    sees both signs in all of them, and the threshold clips whichever side reaches beyond it.
    """
    values, (low, high) = sample.values, sample.extremes
    if levels.symmetric:
        values, low, high = sample.magnitudes, 0.0, max(-low, high)
    if low == high:
        return sample.extremes
    quantized = levels.highest if levels.symmetric else levels.steps + 1
    edges = np.linspace(low, high, BINS + 1)
    inner = np.searchsorted(values, edges[1:-1].astype(np.float32))
    counts = np.diff(inner, prepend=0, append=values.size).astype(np.float64)
    best, chosen = np.inf, max(-low, high)
    for place in range(BINS - STRIDE, 0, -STRIDE):
        threshold = max(-low, high) * place / BINS
        first, last = np.searchsorted(edges, (-threshold, threshold), side="left")
        window = slice(max(0, int(first)), min(BINS, max(int(last), 1)))
        if window.stop - window.start < quantized:
            break
        found = _divergence(counts, window, quantized)
        if found < best:
            best, chosen = found, threshold
    whole = _divergence(counts, slice(0, BINS), quantized)
    chosen = max(-low, high) if whole <= best else chosen
    return _within(sample, -chosen, chosen)


ESTIMATORS: Mapping[str, Estimator] = MappingProxyType(
    {
        "min-max": min_max,
        **{f"percentile {share:.5g}": partial(percentile, share=share) for share in PERCENTILES},
        "mse": mse,
        "entropy": entropy,
    }
)
"""What `best` chooses among."""


class ChosenRange(NamedTuple):
    """A range, whose it is, and what it was chosen for."""

    estimator: str
    covered: Range
    error: float


def best(sample: Sample, levels: Levels, measure: Callable[[Range], float] | None = None) -> ChosenRange:
    """The estimator's range with the smallest measured error; of equal ones the first of `ESTIMATORS`.

    Args:
        sample: the values.
        levels: the integers.
        measure: the error of a range, such as that of the layer's output; the sample's own mean squared error without.
    """
    judge = measure or (lambda covered: sample.error(covered, levels))
    ranges = {name: estimator(sample, levels) for name, estimator in ESTIMATORS.items()}
    choices = [ChosenRange(name, covered, judge(covered)) for name, covered in ranges.items()]
    return min(choices, key=lambda choice: choice.error)


def to_scale(low: float, high: float, levels: Levels) -> tuple[float, int]:
    """The scale and the zero point of a grid over a range.

    Returns:
        A scale that float32 holds exactly and that is never zero (1 for a range of nothing), and a zero point between
        the lowest and the highest integer: 0 for a symmetric grid. Zero is met exactly; the ends are met up to the
        rounding of the scale, and of the zero point where that is not 0.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        return 1.0, 0 if levels.symmetric else min(max(0, levels.lowest), levels.highest)
    step, zero = _real_grid(np.array([[low, high]]), levels)
    return float(step[0, 0]), int(zero[0, 0])


def _real_grid(ranges: NDArray[np.float64], levels: Levels) -> tuple[Floats, Floats]:
    """Scales and zero points, ``(ranges, 1)`` each, whole numbers and float32 in float64."""
    low, high = np.minimum(ranges[:, :1], 0.0), np.maximum(ranges[:, 1:], 0.0)
    if levels.symmetric:
        step = np.maximum(high / levels.highest, low / levels.lowest)
    else:
        step = high / levels.steps - low / levels.steps
    step = np.maximum(step.astype(np.float32).astype(np.float64), SMALLEST_SCALE)
    if levels.symmetric:
        return step, np.zeros_like(step)
    return step, np.clip(np.rint(levels.lowest - low / step), levels.lowest, levels.highest)


def _within(sample: Sample, low: float, high: float) -> Range:
    """A range without what the activation never reaches, and with zero."""
    return Range(max(sample.extremes.low, min(low, 0.0)), min(sample.extremes.high, max(high, 0.0)))


def _search(
    sample: Sample, levels: Levels, start: Range, shares: NDArray[np.float64], ends: tuple[bool, bool]
) -> Range:
    """The best of the ranges whose marked ends are shrunk to each share."""
    ranges = np.where(ends, np.multiply.outer(shares, np.asarray(start)), np.asarray(start))
    low, high = ranges[int(np.argmin(sample.errors(ranges, levels)))]
    return Range(float(low), float(high))


def _refine(sample: Sample, levels: Levels, found: Range, ends: tuple[bool, bool]) -> Range:
    """A finer search around a range; never worse than it."""
    low = found.low / sample.extremes.low if ends[0] and found.low else 0.0
    high = found.high / sample.extremes.high if ends[1] and found.high else 0.0
    width = 1.0 / (GRID_POINTS * max(low, high, 1.0 / GRID_POINTS))  # one step of the coarse search
    shares = np.linspace(max(1.0 - width, 0.05), 1.0 + width, GRID_POINTS // 2)
    finer = _search(sample, levels, found, shares, ends)
    return _better(sample, levels, found, _within(sample, *finer))


def _better(sample: Sample, levels: Levels, first: Range, second: Range) -> Range:
    errors = sample.errors(np.array([first, second]), levels)
    return second if errors[1] < errors[0] else first


def _divergence(counts: Floats, window: slice, levels: int) -> float:
    """Of a histogram clipped to a window from the same with as many levels; infinite where a level misses a bin."""
    inside = counts[window]
    clipped = inside.copy()
    clipped[0] += counts[: window.start].sum()
    clipped[-1] += counts[window.stop :].sum()
    level = np.arange(inside.size) * levels // inside.size
    filled = inside > 0
    sums, bins = np.bincount(level, inside), np.bincount(level, filled)
    spread = np.where(filled, (sums / np.maximum(bins, 1))[level], 0.0)
    seen = clipped > 0
    if not spread.sum() or not spread[seen].all():
        return float(np.inf)
    share = clipped[seen] / clipped.sum()
    return float((share * np.log(share / (spread[seen] / spread.sum()))).sum())
