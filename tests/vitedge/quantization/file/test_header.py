# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from vitedge.errors import UnreadableArtifact
from vitedge.quantization.file.header import FORMAT_VERSION, Header, read_header

CONTENT: dict[str, Any] = {
    "format_version": FORMAT_VERSION,
    "record": {"scheme": "w4"},
    "inputs": [{"shape": [2, 3, 32, 32], "dtype": "uint8"}],
}


def written(path: Path, content: object) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/extra/vitedge.json", json.dumps(content))
    return path


def test_what_was_settled_is_read(tmp_path: Path) -> None:
    assert read_header(written(tmp_path / "m.pt2", CONTENT)) == Header("w4", 2, "uint8")
    dynamic = {**CONTENT, "inputs": [{"shape": ["batch", 3, 32, 32], "dtype": "float32"}]}
    assert read_header(written(tmp_path / "m.pt2", dynamic)) == Header("w4", "dynamic", "float32")


@pytest.mark.parametrize("content", [{}, [], {**CONTENT, "inputs": []}, {**CONTENT, "record": 3}])
def test_what_is_none_is_refused(content: object, tmp_path: Path) -> None:
    path = written(tmp_path / "m.pt2", content)
    with pytest.raises(UnreadableArtifact, match=r"m\.pt2 is not a \.pt2 file that vitedge quantize wrote"):
        read_header(path)


def test_no_file_and_another_format_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UnreadableArtifact, match="There is no"):
        read_header(tmp_path / "m.pt2")
    (tmp_path / "m.pt2").write_bytes(b"PK")
    with pytest.raises(UnreadableArtifact, match="is not a"):
        read_header(tmp_path / "m.pt2")
    newer = written(tmp_path / "m.pt2", {**CONTENT, "format_version": 9})
    with pytest.raises(UnreadableArtifact, match=f"has format 9; this vitedge reads {FORMAT_VERSION}"):
        read_header(newer)
