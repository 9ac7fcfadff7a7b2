# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest

from tests.vitedge.render.samples import ARTIFACTS, MANIFEST
from vitedge import registry
from vitedge.render.export import render
from vitedge.verbs.records import ExportResult


@pytest.mark.parametrize(
    ("system", "formats", "following"),
    [
        ("Linux", ("onnx", "coreml"), "vitedge bench 'my bundle'"),
        ("Linux", ("coreml",), "vitedge kit write 'my bundle' 'my bundle-kit'"),
        ("Darwin", ("coreml",), "vitedge bench 'my bundle'"),
    ],
)
def test_what_to_type_next_works_on_this_machine(
    system: str,
    formats: tuple[str, ...],
    following: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry.platform, "system", lambda: system)
    artifacts = tuple(artifact for artifact in ARTIFACTS if artifact.format in formats)
    render(ExportResult("my bundle", 7, replace(MANIFEST, artifacts=artifacts), {}), as_json=False)
    assert capsys.readouterr().out.splitlines()[-1] == f"next: {following}"
