# SPDX-License-Identifier: Apache-2.0
"""Clocks that are locked and restored, by a stand-in for `jetson_clocks`; also `vitedge.devices.transports.here`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.vitedge.devices.shell_transport import Transport, until
from vitedge.devices.local import Session
from vitedge.devices.remote import RemoteSession
from vitedge.errors import DeviceFailed

JETSON_CLOCKS = """#!/bin/sh
echo "$@" >>{log}
case "$1" in --store) echo stored >"$2" ;; --restore) [ -f "$2" ] || exit 1 ;; esac
"""
pytestmark = pytest.mark.skipif(os.name != "posix", reason="shell scripts")


def install(folder: Path, script: str, name: str = "jetson_clocks") -> None:
    path = folder / name
    path.write_text(script)
    path.chmod(0o755)


def calls(log: Path) -> list[str]:
    return [line.partition(" ")[0] for line in log.read_text().splitlines()]


@pytest.fixture
def far(tmp_path: Path) -> Transport:
    transport = Transport(tmp_path / "far")
    install(tmp_path / "far" / "bin", '#!/bin/sh\nshift\nexec "$@"\n', "sudo")
    return transport


def test_clocks_are_restored_when_the_session_ends(far: Transport, tmp_path: Path) -> None:
    log = tmp_path / "log"
    install(tmp_path / "far" / "bin", JETSON_CLOCKS.format(log=log))
    session = RemoteSession(far)
    assert session.lock_clocks()[-1] == "jetson_clocks"
    assert calls(log) == ["--store", ""]
    session.close()
    assert calls(log) == ["--store", "", "--restore"]


def test_clocks_are_restored_after_the_connection_is_lost(far: Transport, tmp_path: Path) -> None:
    log = tmp_path / "log"
    install(tmp_path / "far" / "bin", JETSON_CLOCKS.format(log=log))
    session = RemoteSession(far)
    session.lock_clocks()
    guard = session._folders()
    assert guard._process.stdin is not None
    guard._process.stdin.close()  # as ssh does there when a cable is pulled
    assert until(lambda: calls(log)[-1:] == ["--restore"])
    session.close()
    assert calls(log) == ["--store", "", "--restore"], "once"


def test_a_device_that_refuses_says_what_it_takes(far: Transport, tmp_path: Path) -> None:
    install(tmp_path / "far" / "bin", "#!/bin/sh\nexit 1\n")
    session = RemoteSession(far)
    with pytest.raises(DeviceFailed, match=r"refuses to lock its clocks \(jetson_clocks --store\): that takes root"):
        session.lock_clocks()
    session.close()


def test_this_machine_restores_its_clocks_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, programs = tmp_path / "log", tmp_path / "bin"
    programs.mkdir()
    install(programs, JETSON_CLOCKS.format(log=log))
    install(programs, '#!/bin/sh\nshift\nexec "$@"\n', "sudo")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    session = Session()
    assert session.lock_clocks()[-1] == "jetson_clocks"
    session.close()
    assert calls(log)[-1] == "--restore"
