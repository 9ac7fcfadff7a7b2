# SPDX-License-Identifier: Apache-2.0
"""`vitedge.devices.transports.transport` through Debian's adb client and a stand-in for its server."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.vitedge.devices import perf_test_stand_in
from tests.vitedge.devices.transports.adb_stand_in import AdbStandIn, android_programs
from tests.vitedge.onnx_models import write_model
from vitedge.devices import perf_test
from vitedge.devices.transports import adb
from vitedge.devices.transports.adb import Transport
from vitedge.devices.transports.transport import quoted
from vitedge.errors import BadRecipe, ConnectionLost, DeviceFailed, MissingBackend
from vitedge.export.onnx.artifact import describe
from vitedge.files.plain import to_dict
from vitedge.latency.model import MeasuredModel

needs_adb = pytest.mark.skipif(not shutil.which("adb"), reason="sudo apt-get install adb")
pytestmark = pytest.mark.slow

HOSTILE = (
    "two words",
    "it's",
    'a "quote"',
    "$(touch pwned)",
    "`touch pwned`",
    "a\nb",
    "naïve 模型",
    "-rf",
    "--",
    "back\\slash",
    "; touch pwned",
    "*",
    "$HOME",
    "tab\there",
    "",
)
SIZE = 20_000_000


@pytest.fixture(scope="module", params=["mksh", "sh"])
def programs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A search path with Android's own shell and tools, or this machine's."""
    return os.environ["PATH"] if request.param == "sh" else android_programs(tmp_path_factory.mktemp("bin"))


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: str) -> Iterator[AdbStandIn]:
    folder = tmp_path / "phone"
    folder.mkdir()
    stand_in = AdbStandIn(folder, {"R58M123ABC": "device"}, programs)
    for name, value in stand_in.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    monkeypatch.setattr(adb, "_SETTLE_S", 0.0)
    yield stand_in
    stand_in.close()


@pytest.fixture
def transport(phone: AdbStandIn) -> Iterator[Transport]:
    connected = Transport()
    yield connected
    connected.close()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.onnx"
    path.write_bytes(np.random.default_rng(0).bytes(SIZE))
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@needs_adb
def test_the_only_device_is_taken_and_named(transport: Transport) -> None:
    assert transport.name == "adb:R58M123ABC"


@needs_adb
def test_no_word_is_taken_for_shell(transport: Transport, phone: AdbStandIn) -> None:
    done = transport.run(f"printf '%s\\0' {quoted(HOSTILE)}")
    assert done.code == 0
    assert tuple(done.out.split("\0")[:-1]) == HOSTILE
    assert not (phone.folder / "pwned").exists()


@needs_adb
@pytest.mark.parametrize("code", [0, 1, 3, 137, 255])
def test_exit_codes_arrive(transport: Transport, code: int) -> None:
    assert transport.run(f"exit {code}").code == code


@needs_adb
def test_a_script_that_a_signal_ends_has_its_code(transport: Transport) -> None:
    assert transport.run("kill -9 $$").code == 128 + signal.SIGKILL


@needs_adb
def test_output_error_output_and_input_stay_apart(transport: Transport) -> None:
    done = transport.run("cat; printf lost >&2; exit 4", given="naïve\n".encode())
    assert (done.code, done.out, done.err, done.last_words) == (4, "naïve\n", "lost", "lost")


@needs_adb
def test_input_is_empty_where_none_is_given(transport: Transport) -> None:
    assert transport.run("wc -c").out.strip() == "0"


@needs_adb
def test_large_output_is_whole(transport: Transport) -> None:
    done = transport.run("seq 1 300000; seq 1 20000 >&2")
    assert done.out == "".join(f"{n}\n" for n in range(1, 300_001))
    assert done.err == "".join(f"{n}\n" for n in range(1, 20_001))


@needs_adb
def test_files_go_there_and_back_unchanged(
    transport: Transport, phone: AdbStandIn, weights: Path, tmp_path: Path
) -> None:
    there = str(phone.folder / "it's $(here).onnx")
    transport.send(weights, there)
    assert digest(Path(there)) == digest(weights)
    transport.fetch(there, tmp_path / "back")
    assert digest(tmp_path / "back") == digest(weights)
    phone.packets.clear()
    transport.send(weights, there)  # what is there already is not sent again
    assert sum(phone.packets) == 0


@needs_adb
@pytest.mark.parametrize("name", [name for name in HOSTILE if name])
def test_any_name_is_a_file_name(transport: Transport, phone: AdbStandIn, tmp_path: Path, name: str) -> None:
    name = name.replace("/", "")
    (tmp_path / "small").write_bytes(b"content")
    transport.send(tmp_path / "small", name)
    assert (phone.folder / name).read_bytes() == b"content"
    transport.fetch(name, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"content"


@needs_adb
def test_an_empty_file_is_sent(transport: Transport, phone: AdbStandIn, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    transport.send(tmp_path / "empty", "empty")
    assert (phone.folder / "empty").read_bytes() == b""


@needs_adb
def test_a_copy_continues_where_it_broke_off(phone: AdbStandIn, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phone.cut_after = SIZE // 2
    with pytest.raises(ConnectionLost, match="R58M123ABC"):
        Transport().send(weights, "model.onnx")
    assert phone.is_idle()
    held = (phone.folder / "model.onnx").stat().st_size
    assert 0 < held < SIZE
    again = AdbStandIn(phone.folder, phone.devices)
    monkeypatch.setenv("ADB_SERVER_SOCKET", again.environment["ADB_SERVER_SOCKET"])
    Transport().send(weights, "model.onnx")
    assert digest(phone.folder / "model.onnx") == digest(weights)
    assert sum(again.packets) == SIZE - held
    again.close()


@needs_adb
def test_another_file_is_not_appended_to(transport: Transport, phone: AdbStandIn, tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"1234")
    (phone.folder / "long").write_bytes(b"12345678")
    with pytest.raises(DeviceFailed, match=r"8 bytes and .* 4, so it is another file: type: adb -s"):
        transport.send(tmp_path / "short", "long")


@needs_adb
def test_what_cannot_be_written_or_read_there_is_said(transport: Transport, tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"content")
    with pytest.raises(DeviceFailed, match=r"could not be copied to no/such/folder on adb:.*(exist|No such)"):
        transport.send(tmp_path / "small", "no/such/folder")
    with pytest.raises(DeviceFailed, match="no/such/file on adb:R58M123ABC is no file"):
        transport.fetch("no/such/file", tmp_path / "back")
    assert not (tmp_path / "back").exists()


@needs_adb
def test_a_device_is_said_to_be_missing(phone: AdbStandIn) -> None:
    with pytest.raises(DeviceFailed, match="No Android device X1 is connected, but R58M123ABC: --device adb:R58M"):
        Transport("X1")
    phone.devices.clear()
    with pytest.raises(DeviceFailed, match="No Android device is connected: plug one in"):
        Transport()


@needs_adb
def test_several_devices_have_to_be_told_apart(phone: AdbStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    phone.devices["192.168.1.7:5555"] = "device"
    with pytest.raises(BadRecipe, match=r"2 .*\(R58M123ABC, 192.168.1.7:5555\), so say which one: --device adb:R58M"):
        Transport()
    chosen = Transport("192.168.1.7:5555")
    assert chosen.run("echo here").out == "here\n"
    assert "host:tport:serial:192.168.1.7:5555" in phone.services
    monkeypatch.setenv("ANDROID_SERIAL", "R58M123ABC")
    assert Transport().name == "adb:R58M123ABC"


@needs_adb
@pytest.mark.parametrize(
    ("state", "remedy"),
    [
        ("unauthorized", "accept the dialog on its screen"),
        ("offline", "adb reconnect"),
        ("recovery", "adb devices"),
        ("no permissions (user in group; rules?); see [x]", "android-sdk-platform-tools-common"),
    ],
)
def test_a_device_that_cannot_be_used_is_refused_with_the_remedy(phone: AdbStandIn, state: str, remedy: str) -> None:
    phone.devices["R58M123ABC"] = state
    with pytest.raises(DeviceFailed, match=remedy):
        Transport()


@needs_adb
def test_a_device_that_is_about_to_come_is_waited_for(phone: AdbStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adb, "_SETTLE_S", 5.0)
    phone.devices["R58M123ABC"] = "authorizing"
    threading.Timer(0.2, phone.devices.update, [{"R58M123ABC": "device"}]).start()
    assert Transport().run("echo here").out == "here\n"


@needs_adb
def test_a_device_that_goes_offline_later_is_refused_likewise(transport: Transport, phone: AdbStandIn) -> None:
    phone.devices["R58M123ABC"] = "offline"
    with pytest.raises(DeviceFailed, match="is offline"):
        transport.run("true")
    phone.devices.clear()
    with pytest.raises(ConnectionLost, match="not connected any more"):
        transport.run("true")


@needs_adb
def test_a_server_that_dies_is_no_success(transport: Transport, phone: AdbStandIn) -> None:
    threading.Timer(0.3, phone.die).start()
    with pytest.raises(ConnectionLost, match="The connection to adb:R58M123ABC was lost"):
        transport.run("sleep 30; echo done")
    assert phone.is_idle()
    with pytest.raises(DeviceFailed, match="adb start-server"):
        Transport()


@needs_adb
def test_a_slow_command_is_stopped_with_all_that_it_started(transport: Transport, phone: AdbStandIn) -> None:
    begin = time.monotonic()
    with pytest.raises(DeviceFailed, match=r"did not answer within 0\.4 s; what ran there was ended"):
        transport.run("(sleep 30) & sleep 30; echo done", limit_s=0.4)
    assert time.monotonic() - begin < 3
    assert phone.is_idle()


@needs_adb
def test_ctrl_c_ends_what_runs_there(phone: AdbStandIn) -> None:
    script = "from vitedge.devices.transports.adb import Transport; Transport().run('sleep 30 & sleep 30')"
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE)
    end = time.monotonic() + 20
    while len(phone.running()) < 4 and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in process.communicate(timeout=10)[1]
    assert phone.is_idle()


@needs_adb
def test_a_started_script_is_spoken_to_and_ends_with_its_client(transport: Transport, phone: AdbStandIn) -> None:
    process = transport.started("while read line; do echo got $line; done; exit 7")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"one\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"got one\n"
    process.communicate(timeout=5)
    assert process.returncode == 7
    process = transport.started("trap 'echo cleaned > left; exit' HUP; sleep 30 & sleep 30 & wait")
    while len(phone.running()) < 4:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert phone.is_idle()
    assert (phone.folder / "left").read_text() == "cleaned\n"  # a script that has to clean up can


@needs_adb
def test_a_client_that_ended_by_itself_is_told_from_a_broken_connection(
    transport: Transport, phone: AdbStandIn
) -> None:
    assert transport.lost(3, "no such file") is None
    assert isinstance(transport.lost(0, ""), ConnectionLost)
    phone.devices["R58M123ABC"] = "offline"
    assert "is offline" in str(transport.lost(1, "error: device offline"))


@needs_adb
def test_a_command_is_one_that_subprocess_runs(transport: Transport) -> None:
    done = subprocess.run(transport.command("cat; exit 3"), input=b"hello", capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"hello", b"")


@needs_adb
def test_a_model_is_measured_by_the_tool_that_was_pushed(
    transport: Transport, phone: AdbStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(perf_test.VARIABLE, raising=False)
    place = str(phone.folder)
    with pytest.raises(MissingBackend) as refused:
        perf_test.find(transport, place, push=str, places=(place,))
    built = perf_test_stand_in.write(tmp_path / "build" / perf_test.PROGRAM)
    (built.parent / "libonnxruntime.so").write_bytes(b"VERS_1.22.1")
    typed = shlex.split(str(refused.value).rpartition("type: ")[2])
    subprocess.run(typed, cwd=built.parent, capture_output=True, check=True)
    tool = perf_test.find(transport, place, push=str, places=(place,))
    assert tool.version == "1.22.1"
    transport.send(write_model(tmp_path / "tiny.onnx"), f"{place}/it's tiny.onnx")
    worker = perf_test.Worker(transport, tool, "tiny", 30.0, lambda _: describe(tmp_path / "tiny.onnx"))
    order = to_dict(MeasuredModel("tiny", "onnxruntime", f"{place}/it's tiny.onnx", threads=1))
    assert worker.ask("load", model=order)["load_ms"] > 0
    assert len(worker.ask("burst", samples=20, seconds=10.0)["raw_ms"]) == 20
    phone.die()
    with pytest.raises(ConnectionLost):
        worker.ask("burst", samples=20, seconds=10.0)


def test_without_adb_its_install_line_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("ANDROID_HOME", str(tmp_path / "sdk"))
    with pytest.raises(MissingBackend, match=r"adb is not installed, .* type: sudo apt-get install adb"):
        Transport()
    program = tmp_path / "sdk" / "platform-tools" / "adb"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\nprintf 'List of devices attached\\nS1\\tdevice\\n'\n")
    program.chmod(0o755)
    assert Transport().name == "adb:S1"
    assert adb.INSTALL.startswith("sudo apt-get install adb")
