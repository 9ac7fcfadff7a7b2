# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
from pathlib import Path

from vitedge.files.digest import hash_file, hash_listing


def test_the_hash_of_a_file_is_that_of_all_its_bytes(tmp_path: Path) -> None:
    for size in (0, 1, 1 << 20, (1 << 20) + 1):  # around the pieces in which it is read
        content = bytes(index % 251 for index in range(size))
        (tmp_path / "file").write_bytes(content)
        assert hash_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_the_hash_of_several_files_is_that_of_their_sorted_listing() -> None:
    lines = f"{'1' * 64}  a/b\n{'0' * 64}  c\n"
    expected = hashlib.sha256(lines.encode()).hexdigest()
    assert hash_listing({"c": "0" * 64, "a/b": "1" * 64}) == expected
    assert hash_listing({"a/b": "1" * 64, "c": "0" * 64}) == expected


def test_a_change_of_a_name_or_of_a_content_changes_the_hash() -> None:
    files = {"a": "0" * 64, "b": "1" * 64}
    changed = ({"a": "0" * 64}, {"a": "0" * 64, "c": "1" * 64}, {"a": "1" * 64, "b": "0" * 64}, {})
    assert len({hash_listing(other) for other in (files, *changed)}) == 1 + len(changed)
