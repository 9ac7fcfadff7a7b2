# SPDX-License-Identifier: Apache-2.0
"""Statistics of an activation over one pass of the images, in constant memory.

They are the exact extremes and the mean of each channel, and a uniform sample of rows (a token's or a pixel's
channels). The rows that are kept depend on their index in the stream alone: those whose hashes are the smallest
(bottom-k sampling; Cohen and Kaplan, "Summarizing data using bottom-k sketches", PODC 2007). So the sample depends
neither on the batch nor on where a run was interrupted, and activations with the same number of rows an image keep the
same tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitedge.calibration.ranges import Sample
from vitedge.errors import UnusableActivations

SAMPLED_VALUES = 2**18
"""Largest number of values in the sample of one activation: 1 MiB of float32."""
_GOLDEN, _FIRST, _SECOND = (np.uint64(word) for word in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_ARRAYS = ("minimum", "maximum", "total", "rows", "hashes", "count")


@dataclass(frozen=True, eq=False)
class Seen:
    """What `Stats` take of the activation of a batch."""

    count: int
    """Number of rows."""
    minimum: NDArray[np.float32]
    """``(channels,)``."""
    maximum: NDArray[np.float32]
    totals: NDArray[np.float32]
    """Sum of the rows of each image, ``(images, channels)``."""
    rows: NDArray[np.float32]
    """Rows that may be among the sample, ``(rows, channels)``."""
    hashes: NDArray[np.uint64]
    """Their hashes."""


class Stats:
    """The calibration statistics of one activation."""

    def __init__(self) -> None:
        self._count = 0
        self._minimum = self._maximum = np.empty(0, np.float32)
        self._total = np.empty(0)
        self._rows = np.empty((0, 0), np.float32)
        self._hashes = np.empty(0, np.uint64)

    @property
    def count(self) -> int:
        """Number of rows that were added."""
        return self._count

    @property
    def channels(self) -> int:
        """Channels of the activation; 0 before the first update."""
        return self._minimum.shape[0]

    @property
    def minimum(self) -> Tensor:
        """Smallest value of each channel, ``(channels,)`` float32, exact."""
        return torch.from_numpy(self._minimum)

    @property
    def maximum(self) -> Tensor:
        """Largest value of each channel, ``(channels,)`` float32, exact."""
        return torch.from_numpy(self._maximum)

    @property
    def mean(self) -> Tensor:
        """Mean of each channel, ``(channels,)`` float64."""
        return torch.from_numpy(self._total / max(self._count, 1))

    @property
    def low(self) -> float:
        """The smallest value of all channels."""
        return float(self._minimum.min()) if self.channels else 0.0

    @property
    def high(self) -> float:
        """The largest value of all channels."""
        return float(self._maximum.max()) if self.channels else 0.0

    @property
    def finite(self) -> bool:
        """Whether no value was NaN or infinite; extremes preserve both."""
        return bool(np.isfinite(self._minimum).all() and np.isfinite(self._maximum).all())

    @property
    def rows(self) -> Tensor:
        """The sample, ``(rows, channels)`` float32, in an order that is random and always the same.

        Its first rows are a smaller sample of the same kind.
        """
        return torch.from_numpy(self._rows[np.argsort(self._hashes)])

    def sample(self, importance: Tensor | None = None) -> Sample:
        """Returns the sample as the estimators of ranges take it.

        Args:
            importance: ``(channels,)``, as `Sample` takes it.
        """
        return Sample(self.rows, self.low, self.high, importance)

    def update(self, tensor: Tensor, channel_axis: int = -1) -> None:
        """Adds the activation of a batch.

        Args:
            tensor: the activation, the batch first, of any floating dtype; every image has the same number of rows.
            channel_axis: the axis of the channels; take the last one where there are no channels.

        Raises:
            ValueError: other channels than before.
        """
        self.add(self.look(tensor, channel_axis))

    def look(self, tensor: Tensor, channel_axis: int = -1, batches_before: float = 0) -> Seen | None:
        """Returns what `add` takes of the activation of a batch; any number of threads may look at once.

        Args:
            tensor: as `update` takes it.
            channel_axis: as `update` takes it.
            batches_before: number of batches of this size whose rows will be added before; with a whole number of rows.

        Returns:
            None for a batch of nothing.

        Raises:
            ValueError: other channels than before.
        """
        # NumPy reduces on one thread without waking others, and takes an eighth of the time of `torch.aminmax`.
        rows = tensor.detach().float().movedim(channel_axis, -1).numpy()
        if rows.size == 0:
            return None
        channels = rows.shape[-1]
        if self.channels not in (0, channels):
            raise ValueError(f"an activation of {self.channels} channels came with {channels}")
        inner, outer = tuple(range(1, rows.ndim - 1)), tuple(range(rows.ndim - 1))
        number = rows.size // channels
        hashes = _hash(self._count + round(batches_before * number), number)
        capacity = _capacity(channels)
        # With a full sample, one comparison rules out nearly all rows.
        most = self._hashes.max() if len(self._hashes) == capacity else np.iinfo(np.uint64).max
        fresh = np.flatnonzero(hashes < most)
        if len(fresh) > capacity:
            fresh = np.sort(fresh[np.argpartition(hashes[fresh], capacity - 1)[:capacity]])
        with np.errstate(invalid="ignore", over="ignore"):  # the extremes preserve it, and `refuse_unusable` reports it
            return Seen(
                number,
                rows.min(outer),
                rows.max(outer),
                # Image by image, so that the sum is the same in batches of any size.
                rows.sum(inner, dtype=np.float32),
                rows[np.unravel_index(fresh, rows.shape[:-1])],
                hashes[fresh],
            )

    def add(self, seen: Seen | None) -> None:
        """Adds what `look` returned, in the order of the images."""
        if seen is None:
            return
        if self.channels == 0:
            self._begin(len(seen.minimum))
        with np.errstate(invalid="ignore", over="ignore"):
            self._minimum = np.minimum(self._minimum, seen.minimum)
            self._maximum = np.maximum(self._maximum, seen.maximum)
            for image in seen.totals:
                self._total = self._total + image
        self._keep(seen.rows, seen.hashes)
        self._count += seen.count

    def affine(self, scale: Tensor, shift: Tensor) -> Stats:
        """Returns the statistics of ``(x - shift) / scale``, channel by channel, without another pass.

        Args:
            scale: ``(channels,)``, not zero; a negative one swaps the extremes.
            shift: ``(channels,)``.
        """
        scaled = self._copy()
        factor, offset = (part.detach().double().numpy() for part in (scale, shift))
        ends = [((end - offset) / factor).astype(np.float32) for end in (self._minimum, self._maximum)]
        scaled._minimum, scaled._maximum = np.minimum(*ends), np.maximum(*ends)
        scaled._total = (self._total - self._count * offset) / factor
        scaled._rows = ((self._rows - offset) / factor).astype(np.float32)
        return scaled

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Returns everything as arrays, for `from_arrays`."""
        return {
            "minimum": self._minimum,
            "maximum": self._maximum,
            "total": self._total,
            "rows": self._rows[: len(self._hashes)],
            "hashes": self._hashes,
            "count": np.array([self._count], np.int64),
        }

    @staticmethod
    def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> Stats:
        """Returns the statistics that `to_arrays` converted; more batches can be added to them.

        Raises:
            ValueError: the arrays do not fit together.
        """
        if set(arrays) != set(_ARRAYS):
            raise ValueError(f"an activation has {', '.join(_ARRAYS)}, not {', '.join(sorted(arrays))}")
        minimum, rows, hashes = arrays["minimum"], arrays["rows"], arrays["hashes"]
        channels = minimum.size
        shapes = [arrays[name].shape for name in ("minimum", "maximum", "total", "count")]
        if shapes != [(channels,)] * 3 + [(1,)] or rows.ndim != 2 or len(rows) != hashes.size:
            raise ValueError(f"arrays of shapes {shapes}, {rows.shape} and {hashes.shape} do not fit together")
        if channels and (rows.shape[1] != channels or hashes.size > _capacity(channels)):
            raise ValueError(f"a sample of shape {rows.shape} does not fit {channels} channels")
        stats = Stats()
        stats._count = int(arrays["count"][0])
        stats._begin(channels)
        stats._minimum, stats._maximum = minimum.astype(np.float32), arrays["maximum"].astype(np.float32)
        stats._total = arrays["total"].astype(np.float64)
        stats._rows[: len(rows)] = rows
        stats._hashes = hashes.astype(np.uint64)
        return stats

    def _begin(self, channels: int) -> None:
        self._minimum = np.full(channels, np.inf, np.float32)
        self._maximum = np.full(channels, -np.inf, np.float32)
        self._total = np.zeros(channels)
        self._rows = np.empty((_capacity(channels) if channels else 0, channels), np.float32)

    def _copy(self) -> Stats:
        """Returns a copy with a sample of its own, because updates change the sample in place."""
        copy = Stats()
        copy.__dict__.update(self.__dict__)
        copy._rows = self._rows.copy()
        return copy

    def _keep(self, rows: NDArray[np.float32], hashes: NDArray[np.uint64]) -> None:
        """Puts the rows of ``(rows, channels)`` into the sample whose hashes are among the smallest."""
        kept, capacity = len(self._hashes), len(self._rows)
        union = np.concatenate([self._hashes, hashes])
        chosen = np.arange(len(union)) if len(union) <= capacity else np.argpartition(union, capacity - 1)[:capacity]
        staying = np.zeros(capacity, bool)
        staying[chosen[chosen < kept]] = True
        coming = np.sort(chosen[chosen >= kept] - kept)
        places = np.flatnonzero(~staying)[: len(coming)]
        self._rows[places] = rows[coming]
        grown = np.zeros(max(kept, int(places.max(initial=-1)) + 1), np.uint64)
        grown[:kept] = self._hashes
        grown[places] = hashes[coming]
        self._hashes = grown


def refuse_unusable(stats: Mapping[str, Stats]) -> None:
    """Refuses activations from which no range can be found.

    Args:
        stats: name of an activation to its statistics, in the order of the model, so that the first one that is not
            finite is named.

    Raises:
        UnusableActivations: an activation holds NaN or infinity.
    """
    for name, seen in stats.items():
        if not seen.finite:
            raise UnusableActivations(
                f"{name} computes NaN or infinity for the calibration images, so no range fits it; "
                "check the weights and the preprocessing, or leave that layer in float."
            )


def _capacity(channels: int) -> int:
    return max(1, SAMPLED_VALUES // channels)


@lru_cache(maxsize=16)
def _hash(first: int, number: int) -> NDArray[np.uint64]:
    """Returns pseudorandom distinct hashes of ``number`` consecutive integers: SplitMix64's output function.

    Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014. It is cached, because
    activations with the same number of rows ask for the same hashes one after the other.
    """
    state: NDArray[np.uint64] = np.arange(first + 1, first + number + 1, dtype=np.uint64) * _GOLDEN
    state = (state ^ (state >> np.uint64(30))) * _FIRST
    state = (state ^ (state >> np.uint64(27))) * _SECOND
    state ^= state >> np.uint64(31)
    state.setflags(write=False)
    return state
