# SPDX-License-Identifier: Apache-2.0
"""Tests of `own_files`: what vitedge wrote is named, and nothing else is taken for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.bad_files import PIT, VIT
from vitedge.errors import UnreadableArtifact
from vitedge.files.bundle import read_manifest
from vitedge.files.own_files import instead_of_artifact, instead_of_checkpoint, is_saved_run

EARLIER = Path(__file__).parent.parent.parent / "earlier"


@pytest.mark.parametrize("name", ["fp32", "jetson"])
def test_a_bundle_of_an_earlier_version_is_named_and_so_is_every_file_of_it(name: str) -> None:
    bundle = EARLIER / name
    for path, words in (
        (bundle, "is a bundle that vitedge export wrote; pass the checkpoint"),
        (bundle / "manifest.json", "is the manifest of a bundle; pass the checkpoint"),
        (bundle / "model.onnx", "lies in a bundle that vitedge export wrote"),
        (bundle / "reference.npz", "lies in a bundle that vitedge export wrote"),
    ):
        assert instead_of_checkpoint(path).startswith(words)


def test_the_checkpoint_of_a_bundle_is_named_as_it_is_typed(tmp_path: Path) -> None:
    source = tmp_path / "my model.pth"
    source.touch()
    (tmp_path / "manifest.json").write_text(json.dumps({"artifacts": [], "checkpoint": {"source": str(source)}}))
    assert instead_of_checkpoint(tmp_path).endswith(f"made from, '{source}'")
    assert instead_of_artifact(tmp_path / "manifest.json") == (
        f"is the manifest of a bundle; pass its folder, {tmp_path}"
    )
    source.unlink()
    assert instead_of_checkpoint(tmp_path).endswith(f"made from ({source})")


def test_a_quantized_program_and_weights_are_exported_first() -> None:
    assert instead_of_checkpoint(EARLIER / "int8.pt2").startswith("is quantized already; vitedge export ")
    assert instead_of_artifact(EARLIER / "int8.pt2").startswith("is no artifact; vitedge export ")
    assert instead_of_artifact(VIT).startswith(f"is no artifact; vitedge export {VIT} -o BUNDLE")


@pytest.mark.parametrize("name", ["reference.npz", "model.mlpackage"])
def test_a_file_of_a_bundle_where_the_bundle_is_asked_for(name: str) -> None:
    path = EARLIER / "fp32" / name
    assert instead_of_artifact(path) == f"lies in a bundle; pass its folder, {path.parent}"
    with pytest.raises(UnreadableArtifact, match=f"{name} lies in a bundle; pass its folder, .*fp32"):
        read_manifest(path)


def test_nothing_else_is_taken_for_ours(tmp_path: Path) -> None:
    shutil.copy(VIT, tmp_path / "renamed.pt2")
    (tmp_path / "manifest.json").write_text('{"artifacts": "of a museum"}')
    (tmp_path / "notes.json").write_text("[1, 2")
    for path in (VIT, PIT, tmp_path, tmp_path / "renamed.pt2", tmp_path / "notes.json", tmp_path / "absent.json"):
        assert instead_of_checkpoint(path) == ""
    assert not is_saved_run(tmp_path / "notes.json")
    assert instead_of_artifact(tmp_path / "notes.json") == ""
