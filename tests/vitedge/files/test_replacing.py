# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vitedge.errors import OutputRefused
from vitedge.files import replacing as output

WRITER = """
import sys, time
from pathlib import Path
from vitedge.files.replacing import replacing
target, text = Path(sys.argv[1]), sys.argv[2]
print("start", flush=True)
with replacing(target, force=True) as folder:
    for index in range(200):
        (folder / f"{index}.bin").write_text(text)
        time.sleep(0.0005)
    (folder / "manifest.json").write_text(text)
"""


def bundle(path: Path, text: str) -> Path:
    with output.replacing(path, force=True) as folder:
        (folder / "manifest.json").write_text(text)
    return path


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_the_target_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with output.replacing(target, force=False) as folder:
        (folder / "a").write_text("a")
        assert not target.exists()
        assert folder.parent == tmp_path
    assert names(tmp_path) == ["bundle"]
    assert names(target) == ["a"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    target = bundle(tmp_path / "bundle", "old")
    with pytest.raises(ValueError, match="boom"), output.replacing(target, force=True) as folder:
        (folder / "manifest.json").write_text("new")
        raise ValueError("boom")
    assert (target / "manifest.json").read_text() == "old"
    assert names(tmp_path) == ["bundle"]


def test_an_existing_target_needs_force(tmp_path: Path) -> None:
    target = bundle(tmp_path / "bundle", "old")
    with pytest.raises(OutputRefused, match="--force"), output.replacing(target, force=False):
        pass
    bundle(target, "new")
    assert (target / "manifest.json").read_text() == "new"


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_force_replaces_nothing_but_a_bundle(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "precious"
    if kind == "file":
        target.write_text("work of years")
    else:
        target.mkdir()
        (target / "thesis.tex").write_text("work of years")
    with pytest.raises(OutputRefused, match="not a bundle"), output.replacing(target, force=True):
        pass
    assert target.exists()


def test_without_an_exchange_the_old_bundle_is_set_aside_and_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = bundle(tmp_path / "bundle", "old")
    monkeypatch.setattr(output, "_exchange", lambda _partial, _target: False)
    bundle(target, "new")
    assert (target / "manifest.json").read_text() == "new"
    assert names(tmp_path) == ["bundle"]
    target.rename(tmp_path / ".bundle.old.partial")  # as if killed between the two renames
    output.clear_debris(target)
    assert (target / "manifest.json").read_text() == "new"


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    target = bundle(tmp_path / "bundle", "old")
    with pytest.raises(OutputRefused, match="is full"), output.replacing(target, force=True):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (target / "manifest.json").read_text() == "old"
    with pytest.raises(OutputRefused, match="MB free"), output.replacing(target, force=True, needs=1 << 60):
        pass


def test_a_folder_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputRefused, match="cannot be written"),
        output.replacing(tmp_path / "file" / "b", force=False),
    ):
        pass


def test_debris_of_the_dead_is_cleared_and_of_the_living_is_not(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".bundle.{dead.pid}.partial").mkdir()
    (tmp_path / f".bundle.{os.getppid()}.partial").mkdir()
    output.clear_debris(tmp_path / "bundle")
    assert names(tmp_path) == [f".bundle.{os.getppid()}.partial"]


def test_a_kill_at_any_moment_leaves_one_whole_bundle(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    bundle(target, "old")
    for round_ in range(12):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(target), f"new{round_}"], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.012 * round_)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        text = (target / "manifest.json").read_text()
        assert all((target / name).read_text() == text for name in names(target))
        assert len(names(target)) in (1, 201)
    bundle(target, "last")
    assert names(tmp_path) == ["bundle"]


@pytest.mark.parametrize(
    ("handle", "state", "fault", "running"),
    [(7, 0x102, 0, True), (7, 0, 0, False), (0, 0, 87, False), (0, 0, 5, True)],
    ids=["runs", "has ended", "never was", "is another user's"],
)
def test_a_process_of_windows_is_asked_without_a_signal(
    monkeypatch: pytest.MonkeyPatch, handle: int, state: int, fault: int, running: bool
) -> None:
    """A fake of Windows: signal 0 there is Ctrl-C, which would end the process that is asked about."""

    class Kernel:  # with the system's own names
        def __init__(self, name: str, **options: object) -> None:
            assert name == "kernel32"

        def OpenProcess(self, right: int, inherited: bool, pid: int) -> int:  # noqa: N802
            assert pid == 4321
            return handle

        def WaitForSingleObject(self, process: int, milliseconds: int) -> int:  # noqa: N802
            assert (process, milliseconds) == (7, 0)
            return state

        def CloseHandle(self, process: int) -> None:  # noqa: N802
            assert process == 7

    monkeypatch.setattr(output.sys, "platform", "win32")
    monkeypatch.setattr(output.ctypes, "WinDLL", Kernel, raising=False)
    monkeypatch.setattr(output.ctypes, "get_last_error", lambda: fault, raising=False)
    monkeypatch.setattr(output.os, "kill", lambda *_: pytest.fail("a signal was sent"))
    assert output._is_running(4321) == running
