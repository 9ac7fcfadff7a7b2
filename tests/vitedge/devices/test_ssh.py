# SPDX-License-Identifier: Apache-2.0
"""The whole way over a real ssh server, with this machine's own Python as the board's; nothing is left of it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.vitedge.devices import ssh_server
from tests.vitedge.devices.shell_transport import Transport, until
from vitedge.demo import assets
from vitedge.devices.messages import packed, unpacked
from vitedge.devices.session import Session, connect
from vitedge.errors import ConnectionLost, DeviceFailed
from vitedge.latency.sampling import Rule
from vitedge.parity.metrics import compare, default_tolerance, exceeded
from vitedge.recipe import ExportRecipe
from vitedge.verbs.bench import BenchOptions, bench
from vitedge.verbs.export import export

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(ssh_server.is_missing(), reason=ssh_server.INSTALL),
]
QUICK = Rule(warmup_s=0.1, warmup_limit_s=0.3, samples=40, seconds=1.0, rounds=5)
CLEAN_S = 20.0
"""Seconds in which the far end has removed everything."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "vit"
    export(str(assets.MODELS[0].path), folder, ExportRecipe(image_count=8, seed=0))
    return folder


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with this machine's Python, which starts sooner with two packages than with all."""
    return Transport(tmp_path_factory.mktemp("python")).python("bin/python3", ["numpy", "onnxruntime"]).parent


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files here, which ends empty."""
    with tempfile.TemporaryDirectory(prefix="t") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)
        assert list(Path(folder).iterdir()) == []


def used(server: ssh_server.Server, monkeypatch: pytest.MonkeyPatch) -> ssh_server.Server:
    """Puts the server's client in front of PATH."""
    monkeypatch.setenv("PATH", f"{server.bin}:{os.environ['PATH']}")
    return server


def check_clean(server: ssh_server.Server) -> None:
    """Nothing runs and nothing lies there but the cache."""
    until(lambda: not server.running() and not server.runs(), CLEAN_S)
    assert server.running() == []
    assert server.runs() == []


@pytest.fixture
def server(
    tmp_path: Path, python: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ssh_server.Server]:
    with ssh_server.serving(tmp_path / "server", str(python)) as running:
        yield used(running, monkeypatch)
        check_clean(running)


def large_file(folder: Path, size: int) -> Path:
    path = folder / "large.onnx"
    path.write_bytes(np.random.default_rng(0).bytes(size))
    return path


def model_of(bundle: Path) -> Path:
    return next(bundle.glob("*.onnx"))


def start(session: Session, there: str) -> Any:
    worker = session.start("vit", 60.0, "onnxruntime")
    worker.ask("load", model={"label": "vit", "runtime": "onnxruntime", "source": there, "threads": 1})
    return worker


def cached(server: ssh_server.Server) -> dict[str, tuple[int, int]]:
    """The files of the cache, with what tells whether they were written again."""
    return {path.name: (path.stat().st_ino, path.stat().st_size) for path in (server.cache / "files").iterdir()}


def test_upload_run_parity_latency_and_a_second_time_nothing_is_sent(
    server: ssh_server.Server, bundle: Path, tmp_path: Path
) -> None:
    reference = np.load(bundle / "reference.npz")
    preprocessing = json.loads((bundle / "manifest.json").read_text())["spec"]["preprocessing"]
    mean, std = (np.array(preprocessing[key], np.float32).reshape(1, -1, 1, 1) for key in ("mean", "std"))
    images = (reference["images"].astype(np.float32) / 255 - mean) / std
    local = onnxruntime.InferenceSession(model_of(bundle), providers=["CPUExecutionProvider"])
    name = local.get_inputs()[0].name
    seen = []
    for _ in range(2):
        with connect("ssh:board") as session:
            assert session.refusal("onnxruntime") == ""
            there = session.push(model_of(bundle))
            worker = start(session, there)
            rows = [unpacked(worker.ask("run", feeds=packed({name: row[None]}))["outputs"]) for row in images]
            times = worker.ask("burst", samples=10, seconds=1.0)["raw_ms"]
            session.pull(there, tmp_path / "back.onnx")
            seen.append(cached(server))
        outputs = {"logits": np.concatenate([row["logits"] for row in rows])}
        parity = compare({"logits": reference["output.logits"]}, outputs)
        assert exceeded(parity, default_tolerance("fp32", "vit")) == ""
        np.testing.assert_allclose(outputs["logits"][:1], local.run(None, {name: images[:1]})[0], rtol=1e-5, atol=1e-6)
        assert len(times) == 10
        assert min(times) > 0
        assert (tmp_path / "back.onnx").read_bytes() == model_of(bundle).read_bytes()
        check_clean(server)
    assert seen[0] == seen[1]
    assert all(hashlib.sha256((server.cache / "files" / name).read_bytes()).hexdigest() == name for name in seen[0])


def test_bench_measures_there(server: ssh_server.Server, bundle: Path) -> None:
    report = bench([str(bundle)], BenchOptions(devices=("ssh:board",), threads=1, rule=QUICK))
    assert report.reports[0].device["device"] == "ssh:board"
    assert report.reports[0].quantiles.median > 0
    check_clean(server)


def test_noise_of_start_up_files_changes_nothing(
    tmp_path: Path, python: Path, bundle: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = "echo Welcome to board; echo /etc; echo oh >&2; printf 'no end of line: '"
    with ssh_server.serving(tmp_path / "server", str(python), first=first) as running:
        server = used(running, monkeypatch)
        with connect("ssh:board") as session:
            there = session.push(model_of(bundle))
            assert start(session, there).ask("first")["first_ms"] > 0
            session.pull(there, tmp_path / "back.onnx")
        assert (tmp_path / "back.onnx").read_bytes() == model_of(bundle).read_bytes()
        check_clean(server)


def test_a_broken_upload_goes_on_where_it_ended(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = large_file(tmp_path, 40_000_000)
    counting = tmp_path / "far programs" / "cat"
    counting.parent.mkdir()
    # Everything that arrives is written down as well, and slowly enough that the connection can break in between.
    piece, cat = tmp_path / "piece", shutil.which("cat")
    counting.write_text(
        f"#!/bin/sh\nwhile dd bs=65536 count=16 iflag=fullblock 2>/dev/null >{piece}; [ -s {piece} ]\n"
        f"do {cat} {piece}; {cat} {piece} >>{tmp_path}/arrived; sleep 0.02; done\n"
    )
    counting.chmod(0o755)
    search = tmp_path / "programs"
    search.symlink_to(counting.parent)
    with ssh_server.serving(tmp_path / "server", str(search)) as running:
        server = used(running, monkeypatch)

        def held() -> int:
            return sum(part.stat().st_size for part in (server.cache / "files").glob("*.part"))

        def cut() -> None:
            assert until(lambda: held() > 10_000_000, 30.0)
            server.drop()

        thread = threading.Thread(target=cut)
        with connect("ssh:board") as session:
            before = server.runs()
            thread.start()
            there = Path(session.push(path))
            thread.join()
            assert there.read_bytes() == path.read_bytes()
            assert len(server.runs()) == 1
            assert server.runs() != before, "the connection did not break"
            assert not list((server.cache / "files").glob("*.part"))
        # Twice at most what was under way when it broke: a piece, and what the pipes held.
        assert 40_000_000 <= (tmp_path / "arrived").stat().st_size < 43_000_000
        check_clean(server)


def test_a_connection_that_breaks_in_a_measurement(server: ssh_server.Server, bundle: Path) -> None:
    with connect("ssh:board") as session:
        worker = start(session, session.push(model_of(bundle)))
        lost = server.runs()
        timer = threading.Timer(0.5, server.drop)
        timer.start()
        with pytest.raises(ConnectionLost, match=r"^The connection to ssh:board was lost: "):
            worker.ask("burst", samples=10**9, seconds=60.0)
        session.reconnect()
        assert len(server.runs()) == 1
        assert server.runs() != lost
        until(lambda: not any(" serve" in command for command in server.running()))
        assert not [command for command in server.running() if " serve" in command]
        again = start(session, session.push(model_of(bundle)))
        assert again.ask("burst", samples=3, seconds=1.0)["raw_ms"]


def test_bench_goes_on_after_a_connection_that_broke(server: ssh_server.Server, bundle: Path) -> None:
    def tell(text: str) -> None:
        if text.startswith("measuring in turn"):
            told.append(text)
            if len(told) == 1:
                threading.Timer(0.5, server.drop).start()

    told: list[str] = []
    rule = Rule(warmup_s=0.1, warmup_limit_s=0.3, samples=10**6, seconds=2.0, rounds=8)
    report = bench([str(bundle)], BenchOptions(devices=("ssh:board",), threads=1, rule=rule), tell)
    assert len(told) == 2
    assert any(note.startswith("ssh:board: the connection was lost after round ") for note in report.notes)
    assert report.passed
    check_clean(server)


def test_a_connection_that_hangs_is_found_and_replaced(server: ssh_server.Server, bundle: Path) -> None:
    with connect("ssh:board") as session:
        worker = start(session, session.push(model_of(bundle)))
        lost = server.runs()
        server.signal(signal.SIGSTOP)
        try:
            with pytest.raises(ConnectionLost):
                worker.ask("burst", samples=10**9, seconds=300.0)
            session.reconnect()
            assert len(server.runs()) == 1, "what was there before is removed, though nobody told it"
            assert server.runs() != lost
        finally:
            server.signal(signal.SIGCONT)


def test_an_idle_session_that_lost_its_connection_is_removed_there(server: ssh_server.Server) -> None:
    with connect("ssh:board") as session:
        server.drop()
        until(lambda: not server.runs(), CLEAN_S)
        assert server.runs() == []
        with pytest.raises(ConnectionLost):
            session.condition()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("mount a file system: run as root, with the right to mount")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_there_is_told_with_sizes(server: ssh_server.Server, small_disk: Path, tmp_path: Path) -> None:
    (server.folder / "far" / "vitedge").symlink_to(small_disk)
    with connect("ssh:board") as session:
        sentence = (
            r"^ssh:board has no room for large\.onnx: it takes 4\.0 MB, and [23]\.\d MB are free in .*/vitedge\.$"
        )
        with pytest.raises(DeviceFailed, match=sentence):
            session.push(large_file(tmp_path, 4_000_000))
        assert list((small_disk / "files").iterdir()) == []
        assert session.push(large_file(tmp_path, 1_000_000))
        assert until(lambda: len(server.runs()) == 1)


def test_a_disk_that_is_full_from_the_beginning_is_told(
    server: ssh_server.Server, small_disk: Path, tmp_path: Path
) -> None:
    (server.folder / "far" / "vitedge").symlink_to(small_disk)
    (small_disk / "filler").write_bytes(bytes(3 * 2**20))
    with connect("ssh:board") as session, pytest.raises(DeviceFailed, match=r"has no room for .* 0\.0 MB are free"):
        session.push(large_file(tmp_path, 100_000))


def test_a_quota_there_is_told_with_sizes(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ssh_server.serving(tmp_path / "server", first="ulimit -f 1024") as running:
        server = used(running, monkeypatch)
        with connect("ssh:board") as session, pytest.raises(DeviceFailed, match=r"; \d\.\d of its 4\.0 MB had arrived"):
            session.push(large_file(tmp_path, 4_000_000))
        assert list((server.cache / "files").iterdir()) == []
        check_clean(server)


@pytest.mark.parametrize(
    ("host", "sentence"),
    [
        ("stranger", r"^ssh:stranger is out of reach \(.*Permission denied.*\): .* type ssh-copy-id stranger\.$"),
        ("unknown", r"^ssh:unknown is out of reach \(Host key verification failed\): .* type ssh unknown once"),
        ("nowhere.invalid", r"^ssh:nowhere\.invalid is out of reach \(.*\): check the name"),
    ],
)
def test_a_host_that_does_not_let_us_in(host: str, sentence: str, server: ssh_server.Server) -> None:
    with pytest.raises(DeviceFailed, match=sentence), connect(f"ssh:{host}"):
        pass


def test_a_server_that_is_off(server: ssh_server.Server) -> None:
    server.process.terminate()
    server.process.wait()
    with (
        pytest.raises(DeviceFailed, match=r"Connection refused\): no ssh server listens at that port"),
        connect("ssh:board"),
    ):
        pass


def test_a_slow_command_is_ended_at_both_ends(server: ssh_server.Server) -> None:
    with connect("ssh:board") as session:
        shell: Any = session._shell  # type: ignore[attr-defined]
        begin = time.monotonic()
        with pytest.raises(DeviceFailed, match=r"^ssh:board did not answer within 1 s\.$"):
            shell("sleep 77 & sleep 77; sleep 77", 1.0)
        assert time.monotonic() - begin < 10
        assert until(lambda: not any("sleep 77" in command for command in server.running()), 5.0)
        assert shell("echo there").out == "there\n"


def test_two_sessions_at_once_share_the_cache_and_nothing_else(
    server: ssh_server.Server, bundle: Path, tmp_path: Path
) -> None:
    path = large_file(tmp_path, 8_000_000)
    with connect("ssh:board") as one, connect("ssh:board") as other:
        found: list[str] = []
        threads = [
            threading.Thread(target=lambda which=which: found.append(which.push(path))) for which in (one, other)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({Path(name).parent.parent for name in found}) == 2
        assert all(Path(name).read_bytes() == path.read_bytes() for name in found)
        worker = start(other, other.push(model_of(bundle)))
        one.close()
        assert worker.ask("burst", samples=3, seconds=1.0)["raw_ms"]
        assert len(server.runs()) == 1


def command_line(bundle: Path, temporary: Path) -> subprocess.Popen[str]:
    """`vitedge bench` in a process of its own, which has begun to measure there."""
    command = [sys.executable, "-m", "vitedge", "bench", str(bundle), "--device", "ssh:board", "--threads", "1"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(temporary)}
    )
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if "measuring" in line or "warming" in line:
            return process
    raise AssertionError("".join(said))


def test_interrupted_here_nothing_is_left_at_either_end(
    server: ssh_server.Server, bundle: Path, temporary: Path
) -> None:
    process = command_line(bundle, temporary)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert server.runs() == []
    assert list(temporary.iterdir()) == []
    check_clean(server)


def test_killed_here_the_far_end_cleans_up_by_itself(server: ssh_server.Server, bundle: Path, temporary: Path) -> None:
    process = command_line(bundle, temporary)
    process.kill()
    process.communicate(timeout=60)
    check_clean(server)
    (left,) = temporary.iterdir()
    assert list(left.iterdir()) == [], "an empty folder is all that is left"
    os.utime(left, (0, 0))
    with connect("ssh:board"):
        assert not left.exists()
    check_clean(server)


def test_interrupted_while_it_connects(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, bundle: Path
) -> None:
    with ssh_server.serving(tmp_path / "server", first=f"touch {tmp_path}/reached; sleep 3") as running:
        server = used(running, monkeypatch)
        command = [sys.executable, "-m", "vitedge", "bench", str(bundle), "--device", "ssh:board"]
        environment = {**os.environ, "TMPDIR": str(temporary)}
        with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
            assert until((tmp_path / "reached").exists, 60.0)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)
        assert process.returncode == 130
        check_clean(server)
