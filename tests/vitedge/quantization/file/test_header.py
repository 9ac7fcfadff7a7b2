# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.vitedge.quantization.file.headers import CONTENT, with_activations, with_batch, written
from vitedge.errors import BadRecipe, UnreadableArtifact
from vitedge.quantization.file.header import FORMAT_VERSION, LARGEST_TEXT, ProgramHeader, fixed_entries, read_header
from vitedge.quantization.file.model import read_model


def test_what_was_fixed_is_read(tmp_path: Path) -> None:
    assert read_header(written(tmp_path / "m.pt2")) == ProgramHeader("int8", 1, "float32", (32, 48), zero_points=True)
    assert read_header(written(tmp_path / "m.pt2", with_batch("batch"))).batch == "dynamic"
    assert read_header(written(tmp_path / "m.pt2", with_batch(4))).batch == 4
    assert not read_header(written(tmp_path / "m.pt2", with_activations("int8", "int16", "dynamic", None))).zero_points
    assert read_header(written(tmp_path / "m.pt2", with_activations(None, "uint16"))).zero_points


@pytest.mark.parametrize(
    "content", [{}, [], {**CONTENT, "inputs": []}, {**CONTENT, "record": 3}, {**CONTENT, "spec": {"image_size": 3}}]
)
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


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"precision": "int8", "batch": 1, "input": "float32", "image_size": [32, 48], "images": None},
        {"opset": 17, "formats": ("onnx", "coreml"), "profiles": ("cpu-x86",)},
    ],
)
def test_an_entry_that_fits_is_accepted(asked: dict[str, Any], tmp_path: Path) -> None:
    path = str(written(tmp_path / "m.pt2"))
    assert fixed_entries(path, asked) == {"precision": "int8", "batch": 1, "input": "float32"}


@pytest.mark.parametrize(
    "asked",
    [{"precision": "fp32"}, {"images": "synthetic"}, {"quantization": ["head=float"]}, {"image_size": [32, 32]}],
)
def test_an_entry_that_was_fixed_is_refused(asked: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(BadRecipe, match=r"quantize the checkpoint anew"):
        fixed_entries(str(written(tmp_path / "m.pt2")), asked)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_an_entry_that_claims_much_is_not_read(compression: int, tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/extra/vitedge.json", json.dumps(CONTENT).ljust(LARGEST_TEXT + 1))
    with pytest.raises(UnreadableArtifact, match="is not a") as caught:
        read_header(path)
    assert re.search("compressed|no program more", str(caught.value.__cause__))
    with pytest.raises(UnreadableArtifact, match=r"compressed|no program more"):
        read_model(path)
