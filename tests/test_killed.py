# SPDX-License-Identifier: Apache-2.0
"""Killed at any moment, the previous bundle is intact and no debris is taken for a result."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vitedge.demo import assets
from vitedge.errors import BundleDamaged, UnreadableArtifact
from vitedge.recipe import ExportRecipe
from vitedge.verbs import export as pipeline
from vitedge.verbs import validate as validation

VIT = assets.MODELS[0].path
KILLS = int(os.environ.get("VITEDGE_KILLS", "3"))
"""Number of kills in one run of the tests; VITEDGE_KILLS=800 takes an hour."""


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vitedge", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def export(output: Path) -> subprocess.Popen[str]:
    return start("export", str(VIT), "-o", str(output), "--force", "--image-count", "2", "--seed", "1")


def wait_for(process: subprocess.Popen[str], words: str) -> None:
    """Reads the lines about progress up to the one with these words."""
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return
    raise AssertionError(f"it never said {words!r}")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def seed_of(bundle: Path) -> str:
    found = re.search(r'"seed": (\d+)', (bundle / "manifest.json").read_text(encoding="utf-8"))
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with seed 0. Not to be changed."""
    bundle = tmp_path_factory.mktemp("sound") / "out"
    pipeline.export(str(VIT), bundle, ExportRecipe(image_count=2, seed=0))
    return bundle


@pytest.fixture
def bundle(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "out"))


def is_refused(debris: Path) -> bool:
    """Whether `validate` takes what a killed command left for no result."""
    try:
        return not validation.validate(debris).passed
    except (BundleDamaged, UnreadableArtifact):
        return True


def test_a_kill_at_any_moment_leaves_a_valid_bundle(sound: Path, bundle: Path) -> None:
    # The first run is left alone, to learn how long one takes from its first line to its last.
    process = export(bundle)
    wait_for(process, "reading")
    begin = time.perf_counter()
    assert process.wait() == 0
    process.communicate()
    length = time.perf_counter() - begin
    assert seed_of(bundle) == "1"
    shutil.rmtree(bundle)
    shutil.copytree(sound, bundle)
    killed = 0
    for number in range(KILLS):
        process = export(bundle)
        wait_for(process, "reading")
        time.sleep(length * number / KILLS)
        process.kill()
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        assert validation.validate(bundle).passed
        debris = [path for path in bundle.parent.iterdir() if path != bundle]
        # One that was killed between the exchange and the clearing leaves the old bundle, whole but under its own name.
        assert all(seed_of(bundle) == "1" or is_refused(path) for path in debris)
        assert all(path.name.startswith(".out.") and path.name.endswith(".partial") for path in debris)
    assert killed >= KILLS // 2
    pipeline.export(str(VIT), bundle, ExportRecipe(image_count=2, seed=2), force=True)
    assert names(bundle.parent) == ["out"]
    assert seed_of(bundle) == "2"


@pytest.mark.parametrize(("stop", "moment"), [(signal.SIGINT, "lowering"), (signal.SIGTERM, "reading")])
def test_an_interrupted_export_cleans_up(stop: signal.Signals, moment: str, bundle: Path) -> None:
    process = export(bundle)
    wait_for(process, moment)
    time.sleep(0.2)
    process.send_signal(stop)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + stop
    assert "Traceback" not in err
    assert out == ""
    assert names(bundle.parent) == ["out"]
    assert seed_of(bundle) == "0"


def wait_for_handlers(process: subprocess.Popen[str]) -> None:
    """Until the command answers signals: of SIGTERM, Python by itself does not."""
    for _ in range(600):
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = int(re.search(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)[1], 16)  # type: ignore[index]
        if caught & 1 << (signal.SIGTERM - 1):
            return
        time.sleep(0.02)
    raise AssertionError("it answers no signal")


@pytest.mark.parametrize("delay", [0.0, 0.3])
def test_an_interrupt_while_libraries_are_imported_is_no_traceback(delay: float, tmp_path: Path) -> None:
    process = export(tmp_path / "out")
    wait_for_handlers(process)
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert names(tmp_path) == []


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the children of a process are found in /proc")
def test_an_interrupted_bench_leaves_no_process(bundle: Path) -> None:
    process = start("bench", str(bundle), str(VIT))
    wait_for(process, "measuring")
    workers = children(process.pid)
    assert workers
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    deadline = time.monotonic() + 10
    while any(is_running(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_running(worker) for worker in workers)
