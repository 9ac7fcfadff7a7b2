# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import time
from itertools import pairwise

import numpy as np
import pytest

from vitedge.images.synthetic import synthesize


def slope(channel: np.ndarray) -> float:
    """Exponent of the amplitude spectrum: log amplitude over log frequency, averaged over directions."""
    height, width = channel.shape
    window = np.hanning(height)[:, None] * np.hanning(width)
    amplitude = np.abs(np.fft.fft2((channel - channel.mean()) * window))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    edges = np.geomspace(3 / min(height, width), 0.4, 12)
    rings = [amplitude[(frequency >= low) & (frequency < high)].mean() for low, high in pairwise(edges)]
    return float(np.polyfit(np.log(np.sqrt(edges[:-1] * edges[1:])), np.log(rings), 1)[0])


@pytest.mark.parametrize("seed", [0, 1])
def test_spectrum_and_colour_are_natural(seed: int) -> None:
    images = synthesize(16, 224, 224, seed)
    slopes = [slope(channel.astype(float)) for image in images for channel in image]
    assert np.mean(slopes) == pytest.approx(-1.0, abs=0.3)
    assert np.std(slopes) < 0.15
    for image in images:
        correlation = np.corrcoef(image.reshape(3, -1))[np.triu_indices(3, 1)]
        assert correlation.min() > 0.6
        assert correlation.max() < 0.9999
    saturation = np.mean((images == 0) | (images == 255))
    assert saturation < 0.03


def test_images_differ_in_mean_contrast_and_content() -> None:
    images = synthesize(16, 64, 96, 0).astype(float)
    assert images.shape == (16, 3, 64, 96)
    assert np.std(images.mean((1, 2, 3))) > 15
    assert np.ptp(images.std((1, 2, 3))) > 20
    flat = images.reshape(16, -1)
    assert np.abs(np.corrcoef(flat) - np.eye(16)).max() < 0.7


def test_edges_are_sharp() -> None:
    step = np.abs(np.diff(synthesize(4, 128, 128, 0)[:, 1].astype(float), axis=-1))
    assert np.percentile(step, 99) > 8 * np.median(step)


def test_same_seed_same_bytes() -> None:
    first = synthesize(3, 48, 40, 7)
    assert np.array_equal(first, synthesize(3, 48, 40, 7))
    assert np.array_equal(first[:2], synthesize(2, 48, 40, 7))
    assert not np.array_equal(first, synthesize(3, 48, 40, 8))


def test_bytes_are_pinned() -> None:
    """A bundle records the hash of its images: they may not change from one version of NumPy or machine to another."""
    digest = hashlib.sha256(synthesize(4, 64, 64, 0).tobytes()).hexdigest()
    assert digest == "d96fa124bc8153a73165b4eaec975aaf8f1505aadd3037c8b6c31097cd5cce7f"


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (8, 300)])
def test_any_size_works(size: tuple[int, int]) -> None:
    assert synthesize(2, *size, seed=0).shape == (2, 3, *size)


def test_it_is_fast() -> None:
    synthesize(1, 224, 224, 0)
    best = min(_seconds() for _ in range(3))
    assert best < 1.0  # 0.2 s alone on one core of 2024; the bound leaves room for a busy machine


def _seconds() -> float:
    start = time.perf_counter()
    synthesize(16, 224, 224, 0)
    return time.perf_counter() - start
