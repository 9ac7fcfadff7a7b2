# SPDX-License-Identifier: Apache-2.0
"""Estimators of the range that an activation's integers cover, from a sample of it and its exact extremes.

Every range includes zero, which an integer then represents exactly: padding stays padding, and the zero point is one
of the type's own integers (arXiv:1712.05877, section 2.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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
"""The largest finite float32 number."""
PERCENTILES = (0.999, 0.9999, 0.99999)
"""Shares of the values that the percentile estimators keep."""
SEARCHED_LEVELS = 4096
"""Types with more levels are not searched: at 16 bits the rounding error lies 100 dB below the range, and nothing is
gained by clipping."""
SEARCH_POINTS = 40
"""Number of fractions of an end that the search tries, from 1 to 1/40; twice, for both ends, and once more around the
best."""
BINS = 2048
"""Bins of the histogram of `entropy`."""
STRIDE = 16
"""Bins between the thresholds that `entropy` tries. TensorRT tries every bin; every sixteenth moves the threshold by
0.8 % of the extreme."""


class Range(NamedTuple):
    """The interval of real numbers that the integers cover; ``low <= 0 <= high``."""

    low: float
    high: float


@dataclass(frozen=True)
class Levels:
    """The integers that an activation is rounded to."""

    lowest: int
    highest: int
    symmetric: bool
    """Whether the zero point has to be 0."""

    @property
    def steps(self) -> int:
        """Number of steps from the lowest to the highest integer."""
        return self.highest - self.lowest


UINT8 = Levels(0, 255, symmetric=False)
INT8 = Levels(-127, 127, symmetric=True)
UINT16 = Levels(0, 65535, symmetric=False)
INT16 = Levels(-32767, 32767, symmetric=True)
LEVELS: Mapping[str, Levels] = MappingProxyType({"uint8": UINT8, "int8": INT8, "uint16": UINT16, "int16": INT16})
"""Integer type of an activation to its integers."""


class Sample:
    """A sample of an activation's values, sorted once for all estimators.

    Args:
        values: ``(rows, channels)`` or of one axis, float32.
        low: the exact minimum of the activation, of which the values are a part.
        high: its exact maximum.
        importance: ``(channels,)``, the weight of each channel's squared error; for the input of a linear layer
            ``(weight**2).sum(0)``, by which the squared error of its output grows where errors do not correlate. None
            weighs all channels equally.

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
        """The absolute values, sorted, ``(values,)`` float32."""
        if self._magnitudes is None:
            self._magnitudes = np.sort(np.abs(self.values))
        return self._magnitudes

    def error(self, covered: Range, levels: Levels) -> float:
        """Returns the mean squared error of the values, weighted by importance, when the integers cover a range."""
        if levels.steps < SEARCHED_LEVELS:
            return float(self.errors(np.array([covered]), levels)[0])
        step, zero = _scales_and_zero_points(np.array([covered]), levels)
        integers = np.clip(np.rint(self.values / step) + zero, levels.lowest, levels.highest)
        squares = ((integers - zero) * step - self.values) ** 2
        return float(np.average(squares, weights=np.broadcast_to(self.weights, squares.shape)))

    def errors(self, ranges: NDArray[np.float64], levels: Levels) -> Floats:
        """Returns the mean squared errors for several ranges at once, ``(ranges, 2)`` to ``(ranges,)``.

        The values that share an integer lie side by side in the sorted sample, so that the sum of their squared
        distances from it, ``sum(w x**2) - 2 c sum(w x) + c**2 sum(w)``, comes of differences of running sums.
        """
        mass, first, second = self._running_sums()
        step, zero = _scales_and_zero_points(ranges, levels)
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
        """Returns the running sums of weight, weighted value and weighted square, each beginning with 0."""
        if self._moments is None:
            values = self.values.astype(np.float64)
            weights = np.broadcast_to(self.weights, values.shape)
            parts = (weights, weights * values, weights * values**2)
            mass, first, second = (np.concatenate([[0.0], np.cumsum(part)]) for part in parts)
            self._moments = mass, first, second
        return self._moments


Estimator = Callable[[Sample, Levels], Range]


def min_max(sample: Sample, levels: Levels) -> Range:
    """Returns the exact extremes: nothing is clipped."""
    del levels
    return sample.extremes


def percentile(sample: Sample, levels: Levels, share: float = 0.9999) -> Range:
    """Returns the range that leaves ``1 - share`` of the values beyond each end, or beyond both ends if symmetric.

    Li et al., "Fully quantized network for object detection", CVPR 2019; the shares are those of RepQ-ViT
    (arXiv:2212.08254).
    """
    values = sample.magnitudes if levels.symmetric else sample.values
    last = values.size - 1
    high = float(values[round(share * last)])
    return _within(sample, -high if levels.symmetric else float(values[round((1 - share) * last)]), high)


def mse(sample: Sample, levels: Levels) -> Range:
    """Searches for the range with the smallest mean squared error of the sample (OMSE, arXiv:1902.06822).

    A symmetric range has one end to search. The ends of an asymmetric one are searched in turn, the other fixed:
    GELU's lower end of -0.17 must not shrink in step with the upper.
    """
    best = sample.extremes
    if levels.steps >= SEARCHED_LEVELS:
        return best
    shares = np.linspace(1.0, 1.0 / SEARCH_POINTS, SEARCH_POINTS)
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
    """Returns the range whose clipped and rounded histogram departs least from the clipped one (Kullback-Leibler).

    S. Migacz, "8-bit Inference with TensorRT", GTC 2017: 2048 bins, and each count of a level is spread evenly over
    those of its bins that are not empty. Symmetric integers take magnitudes in half of their levels; asymmetric ones
    take both signs in all of them, and the threshold clips whichever side reaches beyond it.
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
"""Name of an estimator to the function; `choose_range` compares them in this order."""


class ChosenRange(NamedTuple):
    """A range, the estimator that found it, and its error."""

    estimator: str
    covered: Range
    error: float
    """Mean squared error of the sample's values."""


def choose_range(sample: Sample, levels: Levels, estimators: Iterable[str] = ESTIMATORS) -> ChosenRange:
    """Returns the range with the smallest mean squared error of the sample; of equal ones the first.

    Args:
        sample: the values.
        levels: the integers.
        estimators: keys of `ESTIMATORS` to compare, at least one.
    """
    ranges = {name: ESTIMATORS[name](sample, levels) for name in estimators}
    choices = [ChosenRange(name, covered, sample.error(covered, levels)) for name, covered in ranges.items()]
    return min(choices, key=lambda choice: choice.error)


def to_scale(low: float, high: float, levels: Levels) -> tuple[float, int]:
    """Returns the scale and the zero point with which the integers cover a range.

    Args:
        low: smallest real number; above 0 it counts as 0.
        high: largest real number; below 0 it counts as 0.
        levels: the integers.

    Returns:
        A scale that float32 holds exactly and that is never zero (1 for an empty range), and a zero point between the
        lowest and the highest integer, 0 if symmetric. Zero is represented exactly; the ends are met up to the
        rounding of the scale, and of the zero point where that is not 0.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        return 1.0, 0 if levels.symmetric else min(max(0, levels.lowest), levels.highest)
    step, zero = _scales_and_zero_points(np.array([[low, high]]), levels)
    return float(step[0, 0]), int(zero[0, 0])


def _scales_and_zero_points(ranges: NDArray[np.float64], levels: Levels) -> tuple[Floats, Floats]:
    """Returns scales and zero points of ranges, ``(ranges, 1)`` float64 each; scales are exact in float32."""
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
    """Returns a range clipped to the extremes of the activation and widened to include zero."""
    return Range(max(sample.extremes.low, min(low, 0.0)), min(sample.extremes.high, max(high, 0.0)))


def _search(
    sample: Sample, levels: Levels, start: Range, shares: NDArray[np.float64], ends: tuple[bool, bool]
) -> Range:
    """Returns the best of the ranges whose marked ends are multiplied by each share."""
    ranges = np.where(ends, np.multiply.outer(shares, np.asarray(start)), np.asarray(start))
    low, high = ranges[int(np.argmin(sample.errors(ranges, levels)))]
    return Range(float(low), float(high))


def _refine(sample: Sample, levels: Levels, found: Range, ends: tuple[bool, bool]) -> Range:
    """Searches more finely around a range and returns the best, which is never worse than that range."""
    low = found.low / sample.extremes.low if ends[0] and found.low else 0.0
    high = found.high / sample.extremes.high if ends[1] and found.high else 0.0
    width = 1.0 / (SEARCH_POINTS * max(low, high, 1.0 / SEARCH_POINTS))  # one step of the coarse search
    shares = np.linspace(max(1.0 - width, 0.05), 1.0 + width, SEARCH_POINTS // 2)
    finer = _search(sample, levels, found, shares, ends)
    return _better(sample, levels, found, _within(sample, *finer))


def _better(sample: Sample, levels: Levels, first: Range, second: Range) -> Range:
    errors = sample.errors(np.array([first, second]), levels)
    return second if errors[1] < errors[0] else first


def _divergence(counts: Floats, window: slice, levels: int) -> float:
    """Returns the divergence of a histogram clipped to a window from the same one rounded to a number of levels.

    It is infinite where the rounded histogram has nothing in a bin that is not empty.
    """
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
