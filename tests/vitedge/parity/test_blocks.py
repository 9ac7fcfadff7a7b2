# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from tests.bad_files import VIT
from vitedge.checkpoints.read import read
from vitedge.files.bundle import read_manifest, read_reference
from vitedge.models.reference import Reference, load_reference
from vitedge.parity.artifact import ReferenceOutputs, check_parity
from vitedge.parity.blocks import compare_layers
from vitedge.parity.check import LAYER_IMAGES, Original
from vitedge.records import ParityReport, Tolerance


def altered(source: Path, path: Path, weight: str) -> None:
    model = onnx.load(source)
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == weight)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[:: max(1, values.size // 20)] += 0.5
    tensor.CopyFrom(numpy_helper.from_array(values, weight))
    onnx.save(model, path)


@pytest.fixture(scope="module")
def layers(demo_bundle: Path) -> Callable[[Path], ParityReport]:
    """Compares a file with the reference, first its outputs and then its blocks."""
    manifest, data = read_manifest(demo_bundle), read_reference(demo_bundle)
    artifact = next(artifact for artifact in manifest.artifacts if artifact.format == "onnx")
    reference_outputs = ReferenceOutputs(data, manifest.spec, Tolerance(2e-5, agreement=1.0), "some")
    original = Original(load_reference(read(str(VIT))))

    def compare(path: Path) -> ParityReport:
        (report,) = check_parity(path, artifact, reference_outputs)
        # In a file's metadata the blocks may stand in any order.
        shuffled = replace(artifact, blocks=dict(sorted(artifact.blocks.items(), reverse=True)))
        return compare_layers(report, path, shuffled, original, reference_outputs)

    return compare


@pytest.mark.parametrize(
    ("weight", "block"),
    [
        ("patch_embed.proj.bias", "patch_embed"),
        ("blocks.0.norm1.bias", "blocks.0"),
        ("blocks.2.mlp.fc2.bias", "blocks.2"),
        ("norm.bias", "norm"),
        ("head.bias", "the head, after the last block"),
    ],
)
def test_the_block_with_the_altered_weight_is_named(
    weight: str, block: str, demo_bundle: Path, layers: Callable[[Path], ParityReport], tmp_path: Path
) -> None:
    altered(demo_bundle / "model.onnx", tmp_path / "model.onnx", weight)
    report = layers(tmp_path / "model.onnx")
    assert not report.passed
    assert report.first_departure == block
    assert report.reason.endswith(f"; the first to depart is {block}")


def test_a_good_file_departs_nowhere(demo_bundle: Path, layers: Callable[[Path], ParityReport]) -> None:
    report = layers(demo_bundle / "model.onnx")
    assert report.passed
    assert (report.reason, report.first_departure) == ("", "")
    assert [layer.output for layer in report.layers] == ["patch_embed", *(f"blocks.{i}" for i in range(4)), "norm"]
    assert max(layer.relative_error for layer in report.layers) < 2e-5


def test_without_a_reference_nothing_is_compared(demo_bundle: Path) -> None:
    manifest, data = read_manifest(demo_bundle), read_reference(demo_bundle)
    artifact = next(artifact for artifact in manifest.artifacts if artifact.format == "onnx")
    reference_outputs = ReferenceOutputs(data, manifest.spec, Tolerance(2e-5), "some")
    (report,) = check_parity(demo_bundle / artifact.path, artifact, reference_outputs)
    assert compare_layers(report, demo_bundle / artifact.path, artifact, Original(), reference_outputs) is report


def test_blocks_are_computed_for_a_few_images_only(demo_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, data = read_manifest(demo_bundle), read_reference(demo_bundle)
    artifact = next(artifact for artifact in manifest.artifacts if artifact.format == "onnx")
    reference_outputs = ReferenceOutputs(data, manifest.spec, Tolerance(2e-5), "some")
    reference, seen = load_reference(read(str(VIT))), []
    compute = reference.block_outputs

    def counted(_self: Reference, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        seen.append(len(images))
        return compute(images)

    monkeypatch.setattr(Reference, "block_outputs", counted)
    (report,) = check_parity(demo_bundle / artifact.path, artifact, reference_outputs)
    assert compare_layers(report, demo_bundle / artifact.path, artifact, Original(reference), reference_outputs).layers
    assert seen == [LAYER_IMAGES]
    assert len(data.images) > LAYER_IMAGES
