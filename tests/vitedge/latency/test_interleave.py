# SPDX-License-Identifier: Apache-2.0
"""Models in processes of their own. The factories below run in those processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.vitedge.onnx_models import write_model
from vitedge.devices import local
from vitedge.devices.session import connect
from vitedge.errors import BadRecipe, DeviceFailed, UnreadableArtifact
from vitedge.files.plain import from_dict, to_dict
from vitedge.latency.interleave import measure_in_turn
from vitedge.latency.model import MeasuredModel
from vitedge.latency.sampling import Rule
from vitedge.latency.statistics import quantiles
from vitedge.progress import reporting
from vitedge.records import BenchReport, TensorSpec

QUICK = Rule(warmup_s=0.02, warmup_limit_s=0.2, samples=40, seconds=2.0, rounds=5, patience_s=60.0)
HERE = "tests.vitedge.latency.test_interleave"
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")


def instrumented(
    source: str, log: str = "", pause_s: float = 0.0, fault: str = "", at: int = 0
) -> tuple[str, tuple[()]]:
    """An ONNX file whose runs are logged, slowed down, or end in a fault from a certain run on."""
    from vitedge.runtimes.onnxruntime import Runtime  # noqa: PLC0415 - only in the other process

    run, runs = Runtime.run, [0]

    def instead(self: Runtime, feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        runs[0] += 1
        if fault and runs[0] > at:
            FAULTS[fault]()
        if log:
            with Path(log).open("a", encoding="utf-8") as stream:
                stream.write(f"{os.getpid()}\n")
        time.sleep(pause_s)
        return run(self, feeds)

    Runtime.run = instead  # type: ignore[method-assign]
    return source, ()


def talkative(source: str) -> tuple[str, tuple[()]]:
    """Writes where the answers go."""
    print("a library's greeting")  # noqa: T201 - that is what is tested
    os.write(1, b"and one from its native part\n")
    return source, ()


def noting_its_path(source: str, log: str) -> tuple[str, tuple[()]]:
    """Writes down what the other process opens."""
    Path(log).write_text(source, encoding="utf-8")
    return source, ()


def linear(source: str, width: int) -> tuple[Any, tuple[TensorSpec, ...]]:
    """A PyTorch module; the source is its seed."""
    import torch  # noqa: PLC0415 - only in the other process

    torch.manual_seed(int(source))
    return torch.nn.Linear(width, width), (TensorSpec("image", ("batch", width), "float32"),)


def _raise() -> None:
    raise RuntimeError("the library\nis unhappy")


FAULTS: Mapping[str, Callable[[], object]] = {
    "segfault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "exit": lambda: os._exit(7),
    "hang": lambda: time.sleep(60),
    "raise": _raise,
}


def bench(
    models: Sequence[MeasuredModel], rule: Rule, progress: Callable[[str], None] = lambda _message: None
) -> BenchReport:
    """On this machine."""
    with connect("local") as session, reporting(progress):
        return measure_in_turn(models, session, rule)


def measured(path: Path, label: str = "a", **options: Any) -> MeasuredModel:
    factory = f"{HERE}:instrumented" if options else ""
    return MeasuredModel(label, "onnxruntime", str(path), threads=1, factory=factory, options=options)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_model(tmp_path / "m.onnx", batch="batch")


def test_onnx_and_torch_side_by_side(file: Path) -> None:
    told: list[str] = []
    torch_model = MeasuredModel("reference", "torch", "3", batch=2, factory=f"{HERE}:linear", options={"width": 8})
    found = bench([torch_model, measured(file, "onnx")], QUICK, progress=told.append)
    reference, onnx = found.reports
    assert (reference.runtime, reference.batch, reference.file_size) == ("torch", 2, 0)
    assert (onnx.runtime, onnx.batch, onnx.file_size) == ("onnxruntime", 1, file.stat().st_size)
    for report in found.reports:
        assert report.samples == len(report.raw_ms) == 40
        assert report.quantiles == quantiles(report.raw_ms)
        assert min(report.load_ms, report.first_ms, report.peak_memory_mb) > 0
        assert {"processor", "os", "versions", "before", "after", "method"} <= set(report.device)
    assert reference.device["library"] == "torch"
    assert reference.device["threads"] == reference.device["cores"]
    assert (onnx.device["provider"], onnx.device["threads"]) == ("CPUExecutionProvider", 1)
    assert reference.peak_memory_mb > onnx.peak_memory_mb + 50, (
        "PyTorch must not have been imported beside ONNX Runtime"
    )
    assert [(ratio.subject, ratio.baseline) for ratio in found.ratios] == [("onnx", "reference")]
    assert told == [
        "loading reference, onnx …",
        "warming up reference …",
        "warming up onnx …",
        "measuring in turn: reference, onnx …",
    ]
    assert from_dict(BenchReport, to_dict(found)) == found


class Elsewhere(local.Session):
    """A device with a folder and facts of its own."""

    folder: Path

    def identity(self) -> dict[str, Any]:
        return {"model": "a board"}

    def condition(self) -> dict[str, Any]:
        return {"governor": "schedutil"}

    def cores(self) -> int:
        return 1

    def push(self, path: Path) -> str:
        return str(shutil.copy(path, self.folder / f"pushed-{path.name}"))


def test_facts_and_paths_are_those_of_the_device(file: Path, tmp_path: Path) -> None:
    session = Elsewhere()
    session.folder = tmp_path / "far"
    session.folder.mkdir()
    where = str(tmp_path / "where")
    model = MeasuredModel("a", "onnxruntime", str(file), factory=f"{HERE}:noting_its_path", options={"log": where})
    with contextlib.closing(session):
        (report,) = measure_in_turn([model], session, QUICK).reports
    assert Path(where).read_text() == str(tmp_path / "far" / f"pushed-{file.name}")
    assert (report.device["model"], report.device["threads"]) == ("a board", 1)
    assert report.device["before"] == report.device["after"] == {"governor": "schedutil"}
    assert "os" not in report.device
    assert report.file_size == file.stat().st_size


class TwoProcessors(local.Session):
    def processors(self) -> int:
        return 2


def test_nothing_is_concluded_from_more_threads_than_processors(file: Path) -> None:
    models = [replace(measured(file, label), threads=threads) for label, threads in (("a", 1), ("b", 64))]
    with contextlib.closing(TwoProcessors()) as session:
        found = measure_in_turn(models, session, QUICK)
    assert [ratio.verdict for ratio in found.ratios] == ["no conclusion"]
    assert found.inconclusive.startswith("64 threads share 2 processors")
    with contextlib.closing(TwoProcessors()) as session:
        found = measure_in_turn([replace(model, threads=2) for model in models], session, QUICK)
    assert found.inconclusive == ""


def test_a_worker_ends_when_its_model_was_measured(file: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with connect("local") as session:
        measure_in_turn([measured(file, log=str(log))], session, QUICK)
        (worker,) = session._workers  # type: ignore[attr-defined]
        assert worker._process.wait(timeout=30) == 0


def test_turns_are_taken_in_order_and_never_overlap(file: Path, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    found = bench([measured(file, "a", log=log), measured(file, "b", log=log)], QUICK)
    order = (tmp_path / "log").read_text().split()
    turns = [pid for place, pid in enumerate(order) if place == 0 or order[place - 1] != pid]
    # Warm-up of a, warm-up of b, then five rounds; each turn is one run for the caches and eight samples.
    assert len(turns) == 2 + 2 * QUICK.rounds
    assert len(set(turns)) == 2
    assert all(turns[place] != turns[place + 1] for place in range(len(turns) - 1))
    assert order[-9:] == [turns[-1]] * 9
    assert [report.samples for report in found.reports] == [40, 40]


def test_the_slower_of_two_is_called_slower(file: Path) -> None:
    found = bench([measured(file, "fast", pause_s=0.002), measured(file, "slow", pause_s=0.006)], QUICK)
    (ratio,) = found.ratios
    assert ratio.verdict == "slower"
    assert 1.5 < ratio.low <= ratio.ratio <= ratio.high < 4.5


def test_a_slow_model_is_measured_for_its_time_only(file: Path) -> None:
    rule = replace(QUICK, samples=1000, seconds=0.5, rounds=50)
    found = bench([measured(file, pause_s=0.05)], rule)
    assert 5 <= found.reports[0].samples <= 15
    assert found.reports[0].quantiles.p95 is None


def test_what_libraries_print_does_not_reach_the_answers(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = bench([MeasuredModel("a", "onnxruntime", str(file), factory=f"{HERE}:talkative")], QUICK)
    assert found.reports[0].samples == 40
    assert capfd.readouterr() == ("", "")


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@posix
@pytest.mark.parametrize(
    ("fault", "at", "sentence"),
    [
        ("segfault", 0, "b: its process was killed by SIGSEGV while in its first inference"),
        ("segfault", 1, "b: its process was killed by SIGSEGV while warming up"),
        ("exit", 1, "b: its process ended with exit code 7 while warming up"),
        ("raise", 1, "b failed while warming up: RuntimeError: the library."),
    ],
)
def test_a_process_that_fails_is_one_sentence_and_takes_no_other_with_it(
    file: Path, tmp_path: Path, fault: str, at: int, sentence: str
) -> None:
    log = tmp_path / "log"
    with pytest.raises(DeviceFailed) as caught:
        bench([measured(file, "a", log=str(log)), measured(file, "b", fault=fault, at=at)], QUICK)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 5
    assert not is_running(int(log.read_text().split()[0]))


@posix
def test_a_process_that_is_killed_between_two_turns_is_noticed(file: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def kill(message: str) -> None:
        if message.startswith("measuring"):
            os.kill(int(log.read_text().split()[0]), signal.SIGKILL)

    with pytest.raises(DeviceFailed, match=r"killed by SIGKILL, perhaps for want of memory, while being measured"):
        bench([measured(file, log=str(log))], QUICK, progress=kill)


def test_a_process_that_hangs_is_ended(file: Path) -> None:
    begin = time.perf_counter()
    with pytest.raises(DeviceFailed, match=r"gave no answer for 5 s while in its first inference; it was ended\."):
        bench([measured(file, fault="hang")], replace(QUICK, patience_s=5.0))
    assert time.perf_counter() - begin < 30


def test_interrupting_leaves_no_process_behind(file: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def interrupt(message: str) -> None:
        if message.startswith("measuring"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench([measured(file, "a", log=str(log)), measured(file, "b", log=str(log))], QUICK, progress=interrupt)
    pids = {int(pid) for pid in log.read_text().split()}
    assert len(pids) == 2
    assert not any(is_running(pid) for pid in pids)


def test_errors_of_the_user_arrive_as_themselves(file: Path, tmp_path: Path) -> None:
    with pytest.raises(UnreadableArtifact, match=r"none\.onnx is not there"):
        bench([measured(tmp_path / "none.onnx")], QUICK)
    with pytest.raises(BadRecipe, match="choose from torch, onnxruntime"):
        bench([MeasuredModel("a", "tflite", str(file))], QUICK)
    with pytest.raises(DeviceFailed, match="'nowhere:nothing' is not a function"):
        bench([MeasuredModel("a", "onnxruntime", str(file), factory="nowhere:nothing")], QUICK)


def test_models_need_labels_of_their_own(file: Path) -> None:
    for models in ([], [measured(file), measured(file)]):
        with pytest.raises(BadRecipe, match="a label of its own"):
            bench(models, QUICK)
