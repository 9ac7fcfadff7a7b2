# SPDX-License-Identifier: Apache-2.0
"""What the reference computes, as arrays that outlive it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from vitedge.bundle import ReferenceData
from vitedge.calibration.images import ImageSet
from vitedge.comparison import Evidence, Floats
from vitedge.export.capture import capture
from vitedge.export.coreml_reference import expected_weights
from vitedge.models.reference import Reference
from vitedge.records import Artifact, Bar

LAYER_IMAGES = 2
"""Images for which blocks are compared: all their outputs are kept in memory at once."""


def gather(reference: Reference, images: ImageSet, bar: Bar, *, features: bool) -> Evidence:
    """Runs the reference over the images."""
    outputs = reference.outputs(images.pixels, features=features)
    return Evidence(ReferenceData(images.pixels, outputs), reference.spec, bar, describe(images))


def gather_blocks(reference: Reference, evidence: Evidence) -> Floats:
    """The output of every block for the first images of the evidence."""
    return reference.block_outputs(evidence.data.images[:LAYER_IMAGES])


def weights(reference: Reference, artifact: Artifact) -> Mapping[str, npt.NDArray[np.float32]]:
    """What the constants of an artifact have to hold, by the name of the node of the captured program."""
    image = artifact.inputs[0]
    uint8, features = image.dtype == "uint8", len(artifact.outputs) > 1
    module = reference.deployed(uint8=uint8, features=features)
    batch = image.shape[0] if isinstance(image.shape[0], int) else 1
    program = capture(
        module, reference.spec, reference.blocks, batch=batch, dtype="uint8" if uint8 else "float32", features=features
    )
    return expected_weights(program)


def describe(images: ImageSet) -> str:
    """Where the images came from, with the hash of what was made of them."""
    return f"{images.source}, SHA-256 {images.sha256[:16]}"
