# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.export.coreml.models import captured
from vitedge.export.coreml.artifact import check
from vitedge.export.coreml.expected_weights import expected_weights
from vitedge.export.coreml.weights import Weight
from vitedge.export.to_coreml import lower
from vitedge.files.digest import hash_file
from vitedge.mlprogram.package import MODEL, WEIGHTS, read_package
from vitedge.mlprogram.program import read_program
from vitedge.recipe import ResolvedRecipe
from vitedge.records import Artifact, StructureReport, TensorSpec


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Artifact]:
    path = tmp_path_factory.mktemp("coreml") / "model.mlpackage"
    return path, lower(captured(), ResolvedRecipe(), path, ())


@pytest.fixture
def package(exported: tuple[Path, Artifact], tmp_path: Path) -> tuple[Path, Artifact]:
    path = tmp_path / "model.mlpackage"
    shutil.copytree(exported[0], path)
    return path, exported[1]


def rehashed(path: Path, artifact: Artifact) -> Artifact:
    """The artifact as if the files were the right ones."""
    return replace(artifact, files={name: hash_file(path.parent / name) for name in artifact.files})


def refused(report: StructureReport, reason: str) -> None:
    assert not report.passed
    assert reason in report.reason


def test_a_sound_package_passes_with_what_was_checked(package: tuple[Path, Artifact]) -> None:
    report = check(*package, expected_weights(captured()))
    assert report.passed, report.reason
    text = "\n".join(report.checks)
    assert "3 files with the hashes" in text
    assert "specification version 8, iOS17" in text
    assert "31 weights equal to the reference's, 0 computed" in text


def test_one_changed_byte_is_found_by_its_hash(package: tuple[Path, Artifact]) -> None:
    weights = package[0] / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    refused(check(*package), "weight.bin is not the file that was exported")


def test_another_weight_is_found_by_its_value(package: tuple[Path, Artifact]) -> None:
    path, artifact = package
    name = "head_weight"
    place = dict(read_program(read_package(path)).constants())[name].place
    assert place is not None
    start = place.start
    weights = np.fromfile(path / WEIGHTS, np.uint8)
    weights[start : start + 4].view(np.float32)[0] += 0.5
    weights.tofile(path / WEIGHTS)
    report = check(path, rehashed(path, artifact), expected_weights(captured()))
    refused(report, f"constant {name} ")
    weights[start : start + 4].view(np.float32)[0] = np.nan
    weights.tofile(path / WEIGHTS)
    refused(check(path, rehashed(path, artifact)), f"constant {name} is not finite")


def test_a_bit_that_belongs_to_no_constant_is_noticed(package: tuple[Path, Artifact]) -> None:
    path, artifact = package
    assert "every byte of its weights belongs to a constant" in check(path, artifact).checks
    content = bytearray((path / WEIGHTS).read_bytes())
    content[40] ^= 1
    (path / WEIGHTS).write_bytes(content)
    refused(check(path, rehashed(path, artifact)), "has stray bytes after the header")


def test_a_weight_that_the_package_lacks_is_named(package: tuple[Path, Artifact]) -> None:
    weights = expected_weights(captured()) | {"blocks.9.weight": Weight(np.arange(64, dtype=np.float32))}
    refused(check(*package, weights), "no constant of the package holds blocks.9.weight")


@pytest.mark.parametrize("name", [MODEL, WEIGHTS, "Manifest.json"])
def test_a_missing_file_is_named(package: tuple[Path, Artifact], name: str) -> None:
    (package[0] / name).unlink()
    refused(check(*package), name)


@pytest.mark.parametrize("name", [MODEL, WEIGHTS, "Manifest.json"])
def test_a_truncated_file_does_not_pass_even_with_its_own_hash(package: tuple[Path, Artifact], name: str) -> None:
    path, artifact = package
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[: len(content) // 2])
    refused(check(path, rehashed(path, artifact)), str(path))


def test_a_file_too_many_is_named(package: tuple[Path, Artifact]) -> None:
    (package[0] / "extra.bin").write_bytes(b"x")
    refused(check(*package), "extra.bin")


def test_what_the_artifact_says_is_held_against_the_package(package: tuple[Path, Artifact]) -> None:
    path, artifact = package
    refused(check(path, replace(artifact, target="iOS18")), "is for iOS17 instead of iOS18")
    refused(check(path, replace(artifact, target="iOS99")), "is for iOS17 instead of iOS99")
    refused(check(path, replace(artifact, precision="fp16")), "no operation computes in fp16")
    other = (TensorSpec("logits", (1, 7), "float32"),)
    refused(check(path, replace(artifact, outputs=other)), "instead of logits float32 1x7")
    image = (TensorSpec("image", (1, 3, 64, 64), "float32"),)
    refused(check(path, replace(artifact, inputs=image)), "instead of image float32 1x3x64x64")
