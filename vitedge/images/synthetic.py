# SPDX-License-Identifier: Apache-2.0
"""Seeded images with the statistics of photographs, for parity and calibration where no images are given.

Dead leaves (Lee, Mumford and Huang, IJCV 2001): opaque shapes with a power law of sizes, thrown over each other, have
the edges and the 1/f amplitude spectrum of natural scenes. Colours vary mostly in luminance, less in blue-yellow and
least in red-green, as in natural images (Ruderman, Cronin and Chiao, JOSA A 1998), so that the channels correlate.

Only the raw words of PCG64, which NumPy promises to keep, and elementwise arithmetic and square roots are used: no
Fourier transform, no sum and no matrix product, whose last bits depend on the machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float64]

LEAVES = 240
SMALLEST, LARGEST = 0.02, 0.55
"""Radii of the leaves as a share of the image's longer side."""
SPREAD = (1.0, 0.30, 0.12)
"""Standard deviations of luminance, blue-yellow and red-green."""
SHADE, TEXTURE = 0.3, 0.5
"""Strength of the light's fall within a leaf and of the noise over all, relative to the leaves' luminance."""
GAIN = 1.35
"""Amplitude of an octave of the noise over that of the next coarser one."""

FURTHER_SCENE = 10_000_000
"""Distance of the scenes of one image; more images than that are never made."""


class Uniform:
    """Numbers in [0, 1) from the raw words of a PCG64."""

    def __init__(self, *seed: int) -> None:
        self._words = np.random.PCG64(np.random.SeedSequence(seed))

    def draw(self, *shape: int) -> Field:
        """Returns an array of that shape."""
        words: NDArray[np.uint64] = self._words.random_raw(int(np.prod(shape)))
        numbers: Field = (words >> np.uint64(11)) * 2.0**-53
        return numbers.reshape(shape)

    def bell(self, *shape: int) -> Field:
        """Returns about normal numbers, mean 0 and variance 1, within ±3.5: sums of four uniform numbers."""
        first, second, third, fourth = self.draw(4, *shape)
        numbers: Field = (first + second + third + fourth - 2.0) * 3.0**0.5
        return numbers


def synthesize(count: int, height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """Makes images; image ``i`` depends on the seed, the size and ``i`` alone.

    Returns:
        ``(count, 3, height, width)``, 0 to 255, RGB.
    """
    images = np.empty((count, 3, height, width), np.uint8)
    for index in range(count):
        images[index] = synthesize_image(index, height, width, seed)
    return images


def synthesize_image(index: int, height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """Makes the image of that number: ``(3, height, width)``, 0 to 255, RGB."""
    uniform = Uniform(seed, index)
    mean, contrast = 80.0 + 100.0 * uniform.draw(1), 22.0 + 33.0 * uniform.draw(1)
    leaf, shade = _leaves(uniform, height, width)
    luminance, blue_yellow, red_green = (uniform.bell(LEAVES + 1) * spread for spread in SPREAD)
    light = luminance[leaf] + SHADE * shade + TEXTURE * _octaves(uniform, height, width)
    yellow = blue_yellow[leaf] + SPREAD[1] * TEXTURE * _octaves(uniform, height, width)
    red = red_green[leaf]
    scene = np.stack([light + 0.5 * yellow + red, light + 0.5 * yellow - red, light - yellow])
    return np.clip(mean + contrast * scene + 0.5, 0, 255).astype(np.uint8)


def synthesize_channels(index: int, channels: int, height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """Makes the image of that number with any count of channels: three of each of as many scenes as it takes.

    Returns:
        ``(channels, height, width)``, 0 to 255; the first three are those of `synthesize_image`.
    """
    scenes = range(-(-channels // 3))
    images = [synthesize_image(index + FURTHER_SCENE * scene, height, width, seed) for scene in scenes]
    return np.concatenate(images)[:channels]


def _leaves(uniform: Uniform, height: int, width: int) -> tuple[NDArray[np.intp], Field]:
    """Returns for each pixel the index of the visible leaf (``LEAVES`` is the ground), and its shading (-1 to 1)."""
    leaf, shade = np.full((height, width), LEAVES, np.intp), np.zeros((height, width))
    side = max(height, width)
    radii = side * SMALLEST / np.sqrt(1.0 - uniform.draw(LEAVES) * (1.0 - (SMALLEST / LARGEST) ** 2))
    centres = uniform.draw(LEAVES, 2) * (height, width)
    aspects, slopes = 0.5 + 0.5 * uniform.draw(LEAVES), 2.0 * uniform.draw(LEAVES, 2) - 1.0
    boxes = uniform.draw(LEAVES) < 0.3
    rows, columns = np.arange(height) + 0.5, np.arange(width) + 0.5
    for index in range(LEAVES):
        (top, left), radius = centres[index], radii[index]
        tall, wide = (radius, radius * aspects[index]) if index % 2 else (radius * aspects[index], radius)
        near = slice(*np.searchsorted(rows, (top - tall, top + tall)))
        across = slice(*np.searchsorted(columns, (left - wide, left + wide)))
        down, over = (rows[near, None] - top) / tall, (columns[across] - left) / wide
        covered = np.ones(np.broadcast_shapes(down.shape, over.shape), bool)
        if not boxes[index]:
            covered = down * down + over * over < 1.0
        leaf[near, across][covered] = index
        shade[near, across][covered] = (slopes[index, 0] * down + slopes[index, 1] * over)[covered]
    return leaf, shade


def _octaves(uniform: Uniform, height: int, width: int) -> Field:
    """Returns noise with an amplitude spectrum of about 1/f and a variance of about 1.

    Equal variance in every octave would be 1/f; the gain makes up for what linear interpolation takes from the finest.
    """
    total, power, gain, cell = np.zeros((height, width)), 0.0, 1.0, float(max(height, width))
    while cell >= 1.0:
        shape = int(height / cell) + 2, int(width / cell) + 2
        total += gain * _stretch(_stretch(uniform.bell(*shape), height, cell).T, width, cell).T
        power, gain, cell = power + gain * gain, gain * GAIN, cell / 2.0
    total *= 1.5 / power**0.5
    return total


def _stretch(grid: Field, size: int, cell: float) -> Field:
    """Interpolates linearly along the first axis from one value per cell to ``size`` pixels."""
    place = (np.arange(size) + 0.5) / cell
    lower = place.astype(np.intp)
    share = (place - lower)[:, None]
    stretched: Field = grid[lower] * (1.0 - share) + grid[lower + 1] * share
    return stretched
