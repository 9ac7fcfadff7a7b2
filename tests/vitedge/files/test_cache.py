# SPDX-License-Identifier: Apache-2.0
"""The user's cache, and the command (`vitedge.verbs.cache`, `vitedge.render.cache`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vitedge.errors import BadRecipe, OutputRefused
from vitedge.files.cache import DEFAULT_LIMIT, LIMIT_VARIABLE, find_limit, find_root, find_usage, parse_size, trim
from vitedge.render.cache import render
from vitedge.verbs.cache import cache


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VITEDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(LIMIT_VARIABLE, raising=False)
    return tmp_path / "cache"


def entry(root: Path, name: str, size: int, age: float = 0.0) -> Path:
    """A file of a kind, or one in a folder of its own, that was used so many seconds ago."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    used = time.time() - age
    os.utime(path, (used, used))
    os.utime(path.parent, (used, used))
    return path


def test_the_least_recently_used_of_all_kinds_goes_first(root: Path) -> None:
    old = entry(root, "calibration/old.npz", 100, age=30)
    journal = entry(root, "pruning/key/ranking.safetensors", 100, age=20)
    new, written = entry(root, "calibration/new.npz", 100, age=1), entry(root, "calibration/written.npz", 500, age=99)
    abandoned = entry(root, "calibration/.x.npz.1.partial", 100, age=2 * 86400)
    assert trim(600, kept=written) == 2
    assert [path.exists() for path in (old, journal, new, written, abandoned)] == [False, False, True, True, False]
    assert not journal.parent.exists()
    usage = find_usage()
    found = [(kind.name, kind.entries, kind.size) for kind in usage.kinds]
    assert found == [("calibration", 2, 600), ("pruning", 0, 0)]
    assert (usage.size, usage.limit, usage.limit_from) == (600, DEFAULT_LIMIT, "default")


def test_a_limit_that_was_chosen_holds_for_later_commands_unless_the_environment_has_one(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry(root, "calibration/a.npz", 2000, age=1)
    usage = cache(limit="1kB")
    assert (usage.dropped, usage.size, usage.limit, usage.limit_from) == (1, 0, 1000, "chosen")
    assert find_limit() == (1000, "chosen")
    monkeypatch.setenv(LIMIT_VARIABLE, "3GB")
    assert find_limit() == (3 * 10**9, LIMIT_VARIABLE)
    with pytest.raises(BadRecipe, match=f"{LIMIT_VARIABLE} is set"):
        cache(limit="1kB")
    monkeypatch.setenv(LIMIT_VARIABLE, "much")
    with pytest.raises(BadRecipe, match="takes a size such as 500MB or 2GB; got 'much'"):
        cache()


def test_clearing_leaves_the_limit(root: Path) -> None:
    cache(limit="1GB")
    entry(root, "calibration/a.npz", 10)
    entry(root, "pruning/key/a.safetensors", 10)
    assert cache(clear=True).dropped == 2
    assert (cache().size, cache().limit) == (0, 10**9)


def test_a_cache_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VITEDGE_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputRefused, match="cannot be written"):
        cache(limit="1GB")
    assert cache(clear=True).dropped == 0


@pytest.mark.parametrize(
    ("text", "size"), [("2GB", 2 * 10**9), ("500 mb", 5 * 10**8), ("1.5k", 1500), ("7", 7), ("0", 0)]
)
def test_sizes_are_decimal(text: str, size: int) -> None:
    assert parse_size(text, "--limit") == size


@pytest.mark.parametrize("text", ["", "-1", "two", "3XB", "1e9"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(BadRecipe, match="--limit takes a size"):
        parse_size(text, "--limit")


def test_two_processes_trim_at_once(root: Path) -> None:
    for number in range(200):
        entry(root, f"calibration/{number}.npz", 10, age=number + 1)
    script = "from vitedge.files.cache import trim; print(trim(100))"
    running = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    dropped = [int(process.communicate(timeout=60)[0]) for process in running]
    assert sum(dropped) == 190
    assert find_usage().size == 100


def test_it_is_shown(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry(root, "calibration/a.npz", 1500)
    render(cache(), as_json=False)
    shown = capsys.readouterr().out
    assert f"{find_root()}: 1.5 kB of at most 2.0 GB (the default)" in shown
    render(cache(), as_json=True)
    assert json.loads(capsys.readouterr().out)["size"] == 1500
