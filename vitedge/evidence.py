# SPDX-License-Identifier: Apache-2.0
"""What the reference computes, as arrays that outlive it."""

from __future__ import annotations

from vitedge.bundle import ReferenceData
from vitedge.calibration.images import ImageSet
from vitedge.comparison import Evidence, Floats
from vitedge.models.reference import Reference
from vitedge.records import Bar

LAYER_IMAGES = 2
"""Images for which blocks are compared: all their outputs are kept in memory at once."""


def gather(reference: Reference, images: ImageSet, bar: Bar, *, features: bool) -> Evidence:
    """Runs the reference over the images."""
    outputs = reference.outputs(images.pixels, features=features)
    return Evidence(ReferenceData(images.pixels, outputs), reference.spec, bar, describe(images))


def gather_blocks(reference: Reference, evidence: Evidence) -> Floats:
    """The output of every block for the first images of the evidence."""
    return reference.block_outputs(evidence.data.images[:LAYER_IMAGES])


def describe(images: ImageSet) -> str:
    """Where the images came from, with the hash of what was made of them."""
    return f"{images.source}, {len(images.pixels)} images, SHA-256 {images.sha256[:16]}"
