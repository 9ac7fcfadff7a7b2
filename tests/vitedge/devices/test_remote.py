# SPDX-License-Identifier: Apache-2.0
"""A session over a transport, against a stand-in for the device; `test_ssh.py` has a real server."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.vitedge.devices.shell_transport import PROGRAMS, Transport, alive, until
from vitedge.devices import remote
from vitedge.devices.remote import RemoteSession
from vitedge.errors import BadRecipe, ConnectionLost, DeviceFailed

Open = Callable[[Transport], RemoteSession]
NAMES = (
    "a b",
    "it's",
    'a "quote"',
    "$(touch hurt)",
    "`touch hurt`",
    "a\nb",
    "*",
    "-rf",
    ";touch hurt",
    "\\",
    "%s",
    "é",
)
"""Names of files that are no danger to a shell only where every one of them is quoted."""


@pytest.fixture
def far(tmp_path: Path) -> Transport:
    return Transport(tmp_path / "far")


@pytest.fixture
def connected() -> Iterator[Open]:
    """Opens sessions, which end with the test."""
    sessions: list[RemoteSession] = []

    def session(transport: Transport) -> RemoteSession:
        sessions.append(RemoteSession(transport))
        return sessions[-1]

    yield session
    for one in sessions:
        one.close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file with weights beside it."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"graph")
    (tmp_path / "model.onnx.data").write_bytes(bytes(range(256)) * 40)
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_goes_with_the_weights_beside_it_and_is_sent_once(far: Transport, model: Path, connected: Open) -> None:
    session = connected(far)
    there = Path(session.push(model))
    assert there.read_bytes() == b"graph"
    assert there.with_name("model.onnx.data").read_bytes() == bytes(range(256)) * 40
    assert far.sent == [("model.onnx", 5), ("model.onnx.data", 10240)]
    assert session.push(model) == str(there)
    second = connected(far)
    assert second.push(model) != str(there)
    assert len(far.sent) == 2


@pytest.mark.parametrize("shell", [("dash",), ("busybox", "sh")])
def test_a_folder_goes_whole_whatever_its_files_are_called(
    shell: tuple[str, ...], tmp_path: Path, connected: Open
) -> None:
    if shutil.which(shell[0]) is None:
        pytest.skip(f"apt-get install {shell[0]}")
    folder = tmp_path / "m $(touch hurt).mlpackage"
    for name in NAMES:
        (folder / f"deep {name}").mkdir(parents=True)
        (folder / f"deep {name}" / name).write_text(name)
    far = Transport(tmp_path / "far", shell=shell, programs=PROGRAMS)
    there = Path(connected(far).push(folder))
    assert there.name == folder.name
    assert {name: (there / f"deep {name}" / name).read_text() for name in NAMES} == {name: name for name in NAMES}
    assert not [path for path in tmp_path.rglob("*") if path.name == "hurt"]
    assert not Path("hurt").exists()


def test_a_damaged_file_of_the_cache_is_sent_again(far: Transport, model: Path, connected: Open) -> None:
    connected(far).push(model)
    cached = far.cache / "files" / digest(model)
    cached.write_bytes(b"gr@ph")
    assert Path(connected(far).push(model)).read_bytes() == b"graph"
    assert far.sent[2:] == [("model.onnx", 5)]


def test_digests_are_made_by_shasum_where_there_is_no_other(tmp_path: Path, model: Path, connected: Open) -> None:
    without = [name for name in PROGRAMS if name not in ("sha256sum", "nproc", "readlink")]
    far = Transport(tmp_path / "far", programs=without)
    with pytest.raises(DeviceFailed, match=r"^stand-in cannot check what it has: no program makes SHA-256"):
        connected(far).push(model)
    far.give(["shasum", "perl"])
    assert Path(connected(far).push(model)).read_bytes() == b"graph"
    assert connected(far).push(model)
    assert len(far.sent) == 2


def test_the_cache_has_a_limit(
    far: Transport, tmp_path: Path, connected: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "CACHE_LIMIT_KB", 50)
    session = connected(far)
    for number in range(4):
        path = tmp_path / f"{number}.onnx"
        path.write_bytes(bytes([number]) * 20480)
        there = session.push(path)
        os.utime(far.cache / "files" / digest(path), (number, number))
    assert Path(there).stat().st_size == 20480
    assert len(list((far.cache / "files").iterdir())) == 2


def test_two_that_send_the_same_at_once_do_not_disturb_each_other(far: Transport, model: Path, connected: Open) -> None:
    first, second = connected(far), connected(far)
    send, found = far.send, []

    def slow(path: Path, there: str) -> None:
        Path(there).write_bytes(b"gr")
        far.send = send  # type: ignore[method-assign]
        found.append(second.push(model))
        send(path, there)

    far.send = slow  # type: ignore[method-assign]
    found.append(first.push(model))
    assert [Path(path).read_bytes() for path in found] == [b"graph", b"graph"]
    assert not list((far.cache / "files").glob("*.part"))


def test_what_a_session_that_ended_has_sent_of_a_file_is_gone_on_with(
    far: Transport, model: Path, connected: Open
) -> None:
    connected(far).close()
    (far.cache / "files" / f"{digest(model)}.abcdef.part").write_bytes(b"gra")
    assert Path(connected(far).push(model)).read_bytes() == b"graph"
    assert far.sent[0] == ("model.onnx", 2)


def test_what_was_damaged_on_its_way_is_sent_anew(far: Transport, model: Path, connected: Open) -> None:
    connected(far).close()
    (far.cache / "files" / f"{digest(model)}.abcdef.part").write_bytes(b"xxx")
    assert Path(connected(far).push(model)).read_bytes() == b"graph"
    assert far.sent[:2] == [("model.onnx", 2), ("model.onnx", 5)]


def test_a_file_that_stops_half_way_is_told_with_sizes(far: Transport, tmp_path: Path, connected: Open) -> None:
    path = tmp_path / "large.onnx"
    path.write_bytes(bytes(3_000_000))

    def limited(path: Path, there: str) -> None:
        Path(there).write_bytes(bytes(1_000_000))
        raise DeviceFailed("large.onnx could not be sent to stand-in: File size limit exceeded.")

    far.send = limited  # type: ignore[method-assign]
    with pytest.raises(DeviceFailed, match=r"limit exceeded; 1\.0 of its 3\.0 MB had arrived\.$"):
        connected(far).push(path)
    assert not list((far.cache / "files").glob("*.part"))


def test_a_script_that_takes_too_long_is_ended_there(far: Transport, connected: Open) -> None:
    session = connected(far)
    with pytest.raises(DeviceFailed, match=r"^stand-in did not answer within 0\.5 s\.$"):
        session._shell(f"sleep 50 & echo $! >{far.folder}/number; wait", 0.5)
    number = int((far.folder / "number").read_text())
    assert until(lambda: not alive(number))
    assert not list(far.runs()[0].glob("*.pid"))


def test_a_session_that_the_device_gave_up_is_opened_again(far: Transport, model: Path, connected: Open) -> None:
    session = connected(far)
    session.push(model)
    subprocess.run(["rm", "-rf", *far.runs()], check=True)
    with pytest.raises(ConnectionLost, match=r"^The session with stand-in ended there: its folder is gone\.$"):
        session.identity()
    session.reconnect()
    assert Path(session.push(model)).read_bytes() == b"graph"
    assert len(far.sent) == 2
    assert len(far.runs()) == 1


def test_a_device_that_stays_out_of_reach_can_be_tried_again(
    far: Transport, model: Path, connected: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "ATTEMPTS", 1)
    session = connected(far)
    far.out_of_reach = True
    with pytest.raises(DeviceFailed, match="hung up"):
        session.reconnect()
    far.out_of_reach = False
    session.reconnect()
    assert Path(session.push(model)).read_bytes() == b"graph"


def test_closing_leaves_no_folder_and_no_worker_even_of_a_busy_one(tmp_path: Path, connected: Open) -> None:
    far = Transport(tmp_path / "far", noise="echo Welcome")
    far.python(".venv/bin/python", ["numpy"])
    session = connected(far)
    worker = session.start("vit", 60.0)
    with pytest.raises(BadRecipe, match="toaster"):
        worker.ask("load", model={"label": "vit", "runtime": "toaster", "source": "none"})
    session.pull(f"{far.runs()[0]}/guard", tmp_path / "guard")
    pids = [int(file.read_text().split()[0]) for file in far.runs()[0].glob("*.pid")]
    assert pids
    assert all(alive(pid) for pid in pids)
    session.close()
    assert far.runs() == []
    assert until(lambda: not any(alive(pid) for pid in pids))
    with pytest.raises(DeviceFailed, match=r"^The session with stand-in is closed\.$"):
        session.identity()


def test_a_worker_whose_folder_is_gone_is_a_lost_session(
    far: Transport, connected: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    far.python(".venv/bin/python", ["numpy"])
    session = connected(far)
    session._python()
    monkeypatch.setattr(session, "_runner", lambda: "runner.pyz")
    subprocess.run(["rm", "-rf", *far.runs()], check=True)
    with pytest.raises(ConnectionLost, match="its folder is gone"):
        session.start("vit", 60.0).ask("first")


def test_identity_has_the_system_and_what_its_python_says(far: Transport, connected: Open) -> None:
    far.python(".venv/bin/python", ["numpy", "onnxruntime"])
    session = connected(far)
    identity = session.identity()
    assert identity["device"] == "stand-in"
    assert identity["architecture"] == os.uname().machine
    assert identity["versions"]["numpy"] == np.__version__
    assert session.processors() >= session.cores() >= 1
    assert session.condition()["uptime_s"] > 0
    assert session.refusal("onnxruntime") == ""
    assert session.refusal("torch") == "PyTorch does not run on stand-in, only on the machine that exports."


def test_a_script_that_ended_well_is_no_lost_connection(
    far: Transport, connected: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a client such as adb, 0 is the code of a connection that broke; of a script that ran to its end it is not."""
    session = connected(far)
    monkeypatch.setattr(far, "lost", lambda _code, _said: ConnectionLost("The connection was lost."))
    assert session.condition() is not None
    assert session.identity()["device"] == "stand-in"
