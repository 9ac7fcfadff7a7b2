# SPDX-License-Identifier: Apache-2.0
"""Bundles of earlier versions stay readable: `tests/earlier` holds a small one of each kind."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import vitedge
from vitedge.files.bundle import FORMAT_VERSION, read_manifest
from vitedge.files.plain import from_dict
from vitedge.recipe import ExportRecipe

EARLIER = Path(__file__).parent / "earlier"
BUNDLES = sorted(path.name for path in EARLIER.iterdir() if path.is_dir())


def test_there_is_one_of_each_kind() -> None:
    assert BUNDLES == ["features-uint8", "fp16", "fp32", "int8", "int8-coreml", "jetson", "w4-dynamic-batch"]
    assert sum(path.stat().st_size for path in EARLIER.rglob("*") if path.is_file()) < 1_000_000


@pytest.mark.parametrize("name", BUNDLES)
def test_a_bundle_still_validates(name: str) -> None:
    found = vitedge.validate(EARLIER / name)
    assert found.passed
    assert found.parity


def test_the_results_of_a_mac_are_still_shown() -> None:
    assert any(report.machine for report in vitedge.validate(EARLIER / "fp16").parity)


@pytest.mark.parametrize("name", BUNDLES)
def test_a_manifest_is_read_as_one_of_today(name: str) -> None:
    manifest = read_manifest(EARLIER / name)
    assert manifest.format_version == FORMAT_VERSION
    recipe = from_dict(ExportRecipe, manifest.recipe)
    assert recipe.precision == manifest.artifacts[0].precision
    assert (recipe.quantization is None) == (not manifest.quantization)
    assert manifest.speed is None


@pytest.mark.parametrize("name", ["fp32", "w4-dynamic-batch"])
def test_a_bundle_still_compares_with_its_checkpoint(name: str) -> None:
    assert vitedge.validate(EARLIER / name, against=str(EARLIER / "checkpoint.pth")).passed


def test_a_quantized_program_still_exports(tmp_path: Path) -> None:
    source = shutil.copy(EARLIER / "int8.pt2", tmp_path / "int8.pt2")
    result = vitedge.export(str(source), tmp_path / "bundle", ExportRecipe(precision="int8"))
    assert result.manifest.artifacts[0].precision == "int8"
