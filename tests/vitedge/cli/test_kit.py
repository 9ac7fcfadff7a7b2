# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.schemas import misfits
from tests.vitedge.cli.command import Command, check_refusal
from tests.vitedge.devices.mac_kit.mac import play, run_kit
from vitedge.files.bundle import MANIFEST


def test_a_kit_goes_to_a_mac_and_comes_back(
    vitedge: Command, demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, kit = Path(shutil.copytree(demo_bundle, tmp_path / "bundle")), tmp_path / "kit"
    written = vitedge("kit", "write", bundle, kit)
    assert (written.code, written.err) == (0, "")
    assert f"{kit}: " in written.out
    check_refusal(vitedge("kit", "write", bundle, kit), "kit is already there", "--force")
    again = json.loads(vitedge("kit", "write", bundle, kit, "--force", "--json").out)
    assert again == {"bundle": str(bundle), "kit": str(kit), "size": again["size"]}
    play(monkeypatch)
    assert run_kit(kit) == 0
    monkeypatch.undo()
    imported = vitedge("kit", "import", bundle, kit / "result.npz")
    assert imported.code == 0
    assert "the outputs of the Mac passed, and their report is sealed into the manifest" in imported.out
    assert imported.out.splitlines()[-1] == f"next: vitedge validate {bundle}"
    found = json.loads(vitedge("kit", "import", bundle, kit / "result.npz", "--json").out)
    assert found["passed"]
    assert misfits("validate", found) == []
    assert misfits("manifest", json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))) == []


def test_outputs_beyond_the_tolerance_are_exit_code_4(
    vitedge: Command, demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, kit = Path(shutil.copytree(demo_bundle, tmp_path / "bundle")), tmp_path / "kit"
    assert vitedge("kit", "write", bundle, kit).code == 0
    play(monkeypatch, lambda outputs: {name: np.asarray(values) + 1 for name, values in outputs.items()})
    assert run_kit(kit) == 4
    monkeypatch.undo()
    imported = vitedge("kit", "import", bundle, kit / "result.npz")
    assert imported.code == 4
    assert "did NOT pass" in imported.out
    assert imported.out.splitlines()[-1] == f"next: vitedge validate {bundle} --overflow"


def test_what_is_no_bundle_or_no_result_is_one_sentence(vitedge: Command, demo_bundle: Path, tmp_path: Path) -> None:
    check_refusal(vitedge("kit", "write", tmp_path, tmp_path / "kit"), "is not a bundle")
    (tmp_path / "result.npz").write_bytes(b"nothing")
    check_refusal(vitedge("kit", "import", demo_bundle, tmp_path / "result.npz"), "result.npz")
