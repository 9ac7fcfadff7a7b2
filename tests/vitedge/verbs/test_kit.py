# SPDX-License-Identifier: Apache-2.0
"""The verb `kit`; what a kit holds and what is believed of it is tested with `vitedge.devices.mac_kit.kit`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.vitedge.devices.mac_kit.mac import play, run_kit
from vitedge.files.bundle import read_manifest
from vitedge.verbs.kit import import_result, write


def test_a_kit_is_written_run_and_imported(demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Path(shutil.copytree(demo_bundle, tmp_path / "bundle"))
    written = write(str(bundle), str(tmp_path / "kit"))
    assert (written.bundle, written.kit) == (str(bundle), str(tmp_path / "kit"))
    assert written.size == sum(path.stat().st_size for path in (tmp_path / "kit").rglob("*") if path.is_file())
    play(monkeypatch)
    assert run_kit(tmp_path / "kit") == 0
    before = read_manifest(bundle).parity
    checked = import_result(bundle, tmp_path / "kit" / "result.npz")
    assert checked.passed
    assert read_manifest(bundle).parity == (*before, *checked.parity)
    assert checked.size == sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    assert json.loads((bundle / "manifest.json").read_text())["parity"][-1]["runtime"] == "coreml"
