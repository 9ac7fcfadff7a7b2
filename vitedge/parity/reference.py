# SPDX-License-Identifier: Apache-2.0
"""What the reference computes, as arrays that outlive it."""

from __future__ import annotations

from vitedge.files.bundle import ReferenceData
from vitedge.images.image_set import ImageSet
from vitedge.models.reference import Reference
from vitedge.parity.artifact import ReferenceOutputs
from vitedge.program.capture import capture
from vitedge.program.program import Program
from vitedge.records import Artifact, Tolerance


def gather(reference: Reference, images: ImageSet, tolerance: Tolerance, *, features: bool) -> ReferenceOutputs:
    """Runs the reference over the images."""
    outputs = reference.outputs(images.pixels, features=features)
    return ReferenceOutputs(ReferenceData(images.pixels, outputs), reference.spec, tolerance, describe(images))


def captured(reference: Reference, artifact: Artifact) -> Program:
    """The program of the reference that an artifact says it is: its input, its batch and its outputs."""
    image = artifact.inputs[0]
    uint8, features = image.dtype == "uint8" or image.pixels, len(artifact.outputs) > 1
    module = reference.deployed(uint8=uint8, features=features)
    batch = image.shape[0] if isinstance(image.shape[0], int) else 1
    return capture(
        module, reference.spec, reference.blocks, batch=batch, dtype="uint8" if uint8 else "float32", features=features
    )


def describe(images: ImageSet) -> str:
    """Where the images came from, with the hash of what was made of them."""
    return f"{images.source}, SHA-256 {images.sha256[:16]}"
