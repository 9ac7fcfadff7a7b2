# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.bad_files import VIT
from vitedge.checkpoints.read import read
from vitedge.export.coreml.expected_weights import expected_weights
from vitedge.files.bundle import read_manifest
from vitedge.images.image_set import ImageSet, load
from vitedge.models.reference import Reference, load_reference
from vitedge.parity.reference import captured, describe, gather
from vitedge.records import TensorSpec, Tolerance


@pytest.fixture(scope="module")
def reference() -> Reference:
    return load_reference(read(str(VIT)))


@pytest.fixture(scope="module")
def images(reference: Reference) -> ImageSet:
    return load("synthetic", reference.spec, 5, seed=7)


@pytest.mark.parametrize("features", [False, True])
def test_the_reference_outputs_are_what_the_reference_computes(
    reference: Reference, images: ImageSet, features: bool
) -> None:
    tolerance = Tolerance(relative_error=1e-5)
    found = gather(reference, images, tolerance, features=features)
    assert (found.tolerance, found.spec) == (tolerance, reference.spec)
    np.testing.assert_array_equal(found.data.images, images.pixels)
    expected = reference.outputs(images.pixels, features=features)
    assert tuple(found.data.outputs) == tuple(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found.data.outputs[name], values)


def test_the_images_are_described_so_that_they_can_be_told_apart(reference: Reference, images: ImageSet) -> None:
    text = describe(images)
    assert text == f"synthetic, seed 7, SHA-256 {images.sha256[:16]}"
    assert describe(load("synthetic", reference.spec, 5, seed=8)) != text
    assert gather(reference, images, Tolerance(), features=False).image_source == text


def test_the_weights_of_an_artifact_are_those_of_its_own_program(reference: Reference, demo_bundle: Path) -> None:
    artifact = next(artifact for artifact in read_manifest(demo_bundle).artifacts if artifact.format == "coreml")
    plain = expected_weights(captured(reference, artifact))
    stored = reference.module.state_dict()
    for name, values in stored.items():
        assert any(found.value.size == values.numel() for found in plain.values()), name
    assert any(np.array_equal(found.value, stored["head.weight"].numpy()) for found in plain.values())
    pixels = replace(artifact, inputs=(TensorSpec("image", (1, 3, 32, 32), "uint8"),))
    assert any("std" in name for name in set(expected_weights(captured(reference, pixels))) - set(plain))
    features = replace(artifact, outputs=(artifact.outputs[0], artifact.outputs[0]))
    assert not any(
        np.array_equal(found.value, stored["head.weight"].numpy())
        for found in expected_weights(captured(reference, features)).values()
    )
