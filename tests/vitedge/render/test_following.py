# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from vitedge import registry
from vitedge.render.following import export_command, kit_command


def test_only_formats_are_suggested_whose_packages_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = "vitedge export 'my model.pth' --set heads=3 -o BUNDLE --format onnx --format coreml"
    assert export_command("my model.pth", ["--set", "heads=3"]) == whole
    monkeypatch.setattr(registry, "missing", lambda _table, name: ("coremltools",) if name == "coreml" else ())
    assert export_command("my model.pth", ["--set", "heads=3"]) == whole.removesuffix(" --format coreml")


def test_nothing_is_said_again_about_a_quantized_file() -> None:
    assert export_command("m.pt2", ["--set", "heads=3"]) == "vitedge export m.pt2 -o BUNDLE --format onnx"


def test_a_kit_lies_beside_its_bundle() -> None:
    assert kit_command(Path("out/my bundle/")) == "vitedge kit write 'out/my bundle' 'out/my bundle-kit'"
