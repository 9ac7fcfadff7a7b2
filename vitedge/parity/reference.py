# SPDX-License-Identifier: Apache-2.0
"""The outputs of the reference as arrays, and the captured program of the reference."""

from __future__ import annotations

from vitedge.files.bundle import ReferenceData
from vitedge.images.image_set import ImageSet
from vitedge.models.reference import Reference
from vitedge.parity.artifact import ReferenceOutputs
from vitedge.program.capture import capture
from vitedge.program.program import Program
from vitedge.records import Artifact, Tolerance


def gather(reference: Reference, images: ImageSet, tolerance: Tolerance, *, features: bool) -> ReferenceOutputs:
    """Returns the reference's outputs over the images, with the tolerance that artifacts are checked with.

    Args:
        reference: the PyTorch model.
        images: those that every artifact is run on too.
        tolerance: of the artifacts.
        features: take tokens and pooled features, not logits.
    """
    outputs = reference.outputs(images.pixels, features=features)
    data = ReferenceData(images.pixels, outputs)
    return ReferenceOutputs(data, reference.spec, tolerance, describe(images), images.remarks)


def captured(reference: Reference, artifact: Artifact) -> Program:
    """Captures the reference with the input type, the batch size and the outputs that an artifact has."""
    image = artifact.inputs[0]
    uint8, features = image.dtype == "uint8" or image.pixels, len(artifact.outputs) > 1
    module = reference.deployed(uint8=uint8, features=features)
    batch = image.shape[0] if isinstance(image.shape[0], int) else 1
    return capture(
        module, reference.spec, reference.blocks, batch=batch, dtype="uint8" if uint8 else "float32", features=features
    )


def describe(images: ImageSet) -> str:
    """Returns the source of the images, how many were skipped, and the hash of the prepared pixels, as one phrase."""
    skipped = f", {len(images.skipped)} skipped" if images.skipped else ""
    return f"{images.source}{skipped}, SHA-256 {images.sha256[:16]}"
