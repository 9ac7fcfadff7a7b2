# SPDX-License-Identifier: Apache-2.0
"""`json_file` and `zip_directory`: what a file claims is known before it takes memory."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from vitedge.files.json_file import read_json
from vitedge.files.zip_directory import directory_size

MIB = 2**20


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"a": "' + b"x" * MIB + b'"}', "are not read"),
        (b"[" + b"[]," * 500_000 + b"[]]", "millions of values"),
        (b"[" + b"1," * 3_000_000 + b"1]", "millions of values"),
        (b"[" * 100_000, "deeply"),
        (b"[" * 200 + b"]" * 200, "deeply"),
        (b"1" * 5000, "limit"),
        (b"\xff\xfe\xff", "decode"),
        (b"", "Expecting value"),
    ],
)
def test_what_would_take_too_much_is_refused(text: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(ValueError, match=words):
        read_json(tmp_path / "a.json", MIB if words.startswith("are") else 16 * MIB)


def test_gigabytes_are_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(3 * 2**30)
    with pytest.raises(ValueError, match="3221225472 bytes"):
        read_json(tmp_path / "a.json", MIB)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(ValueError, match="not a file"):
        read_json(tmp_path / "a.json", MIB)


def test_what_is_within_the_bounds_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1, {"b": null}]}', encoding="utf-8")
    assert read_json(tmp_path / "a.json", MIB) == {"a": [1, {"b": None}]}


@pytest.mark.parametrize("members", [0, 3, 70_000])
def test_the_directory_is_as_large_as_its_entries(members: int, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(members):
            archive.writestr(f"{number:06}", b"")
    assert directory_size(tmp_path / "a.zip") == members * (46 + 6)


def test_what_is_no_archive_has_no_directory(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK\x05\x06")
    assert directory_size(tmp_path / "a.zip") == 0
