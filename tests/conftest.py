# SPDX-License-Identifier: Apache-2.0
"""Fixtures of several test modules: an export takes seconds, and one of them is enough."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bad_files import VIT
from vitedge.recipe import ExportRecipe


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps calibrations of tests out of the user's cache; fixtures of a module name a cache of their own."""
    monkeypatch.setenv("VITEDGE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded ViT as ONNX and as Core ML, with six images. Not to be changed."""
    from vitedge.verbs.export import export  # noqa: PLC0415 - most test modules need no PyTorch

    folder = tmp_path_factory.mktemp("demo") / "vit"
    export(str(VIT), folder, ExportRecipe(formats=("onnx", "coreml"), image_count=6))
    return folder
