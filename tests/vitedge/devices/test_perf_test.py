# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.vitedge.devices import perf_test_stand_in as stand_in
from tests.vitedge.onnx_models import write_model
from vitedge.devices import perf_test
from vitedge.devices.perf_test import PerfTest, Worker, find, parse, providers_of
from vitedge.devices.transports.transport import Completed
from vitedge.errors import BadRecipe, CheckFailed, DeviceFailed, MissingBackend
from vitedge.export.onnx.artifact import describe
from vitedge.files.plain import to_dict
from vitedge.latency.model import MeasuredModel
from vitedge.latency.sampling import Rule
from vitedge.records import Artifact, TensorSpec

ROWS = "resnet,0.0012,52428800,97,0\nresnet,9.8e-05,52428800,97,1\nresnet,0.0021,52428800,97,2\n"
SUMMARY = "\nMin Latency: 9.8e-05 s\nMax Latency: 0.0021 s\nP50 Latency: 0.0012 s\n"


class Here:
    """A stand-in for a device: scripts run in this machine's ``sh``."""

    name = "adb:here"

    def run(self, script: str, limit_s: float = 60.0, given: bytes = b"") -> Completed:
        try:
            done = subprocess.run(["sh", "-c", script], input=given, capture_output=True, timeout=limit_s, check=False)
        except subprocess.TimeoutExpired:
            raise DeviceFailed(f"{self.name} did not finish within {limit_s:g} s") from None
        code = done.returncode if done.returncode >= 0 else 128 - done.returncode
        return Completed(code, done.stdout.decode(), done.stderr.decode())

    def command(self, script: str) -> list[str]:
        return ["sh", "-c", script]

    def started(self, script: str) -> subprocess.Popen[bytes]:
        raise NotImplementedError

    def send(self, path: Path, there: str) -> None:
        Path(there).write_bytes(path.read_bytes())

    def fetch(self, there: str, path: Path) -> None:
        path.write_bytes(Path(there).read_bytes())

    def lost(self, code: int, said: str) -> DeviceFailed | None:
        return None

    def close(self) -> None:
        return


def worker(folder: Path, program: Path, provider: str = "cpu", patience_s: float = 60.0) -> Worker:
    tool = PerfTest(str(program), str(folder), provider=provider)
    return Worker(Here(), tool, "tiny", patience_s, lambda path: describe(Path(path)))


def model(folder: Path, **settings: Any) -> dict[str, Any]:
    path = write_model(folder / "model.onnx", batch=settings.pop("shape", 1))
    return dict(to_dict(MeasuredModel("tiny", "onnxruntime", str(path), **{"threads": 1, **settings})))


def says(folder: Path, words: str, code: int = 0) -> Path:
    """Writes a program that says something and ends."""
    path = folder / "onnxruntime_perf_test"
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{words}\nEND\nexit {code}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def records(folder: Path) -> Path:
    """Writes a program that writes down its arguments and one sample, and says that it has 8 threads."""
    path = folder / "onnxruntime_perf_test"
    path.write_text(
        f'#!/bin/sh\necho "$@" > {folder}/asked\nfor last; do :; done\necho m,0.1,1000,9,0 > "$last"\n'
        "echo Setting intra_op_num_threads to 8\n",
        encoding="utf-8",
    )
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("edition", "load_ms", "first_ms"),
    [(stand_in.EARLY, math.nan, math.nan), (stand_in.MIDDLE, 512.0, math.nan), (stand_in.LATE, 512.0, 12.0)],
)
def test_every_wording_is_read(edition: str, load_ms: float, first_ms: float) -> None:
    printed = "Setting intra_op_num_threads to 4\n" + stand_in.report(edition, 0.512, 0.0128, [0.0012] * 3, 52428800)
    outcome = parse(printed, ROWS + SUMMARY)
    assert outcome.raw_ms == pytest.approx((1.2, 0.098, 2.1))
    assert outcome.load_ms == pytest.approx(load_ms, nan_ok=True)
    assert outcome.first_ms == pytest.approx(first_ms, nan_ok=True)
    assert outcome.peak_memory_mb == pytest.approx(52.4288)
    assert outcome.threads == 4


def test_a_name_with_commas_and_a_negative_share_of_processors_are_read() -> None:
    assert parse("", "a, b,0.002,1000000,-1,0\n").raw_ms == (2.0,)
    nothing = parse("failed to open result file", "")
    assert nothing.raw_ms == ()
    assert math.isnan(nothing.peak_memory_mb)
    assert nothing.threads is None


def test_a_model_is_measured_a_process_a_turn(tmp_path: Path) -> None:
    one = worker(tmp_path, stand_in.write(tmp_path / "bin" / perf_test.PROGRAM))
    loaded = one.ask("load", model=model(tmp_path))
    assert loaded["batch"] == 1
    assert loaded["load_ms"] > 0
    assert [spec["name"] for spec in loaded["inputs"] + loaded["outputs"]] == ["x", "y"]
    assert loaded["described"]["threads"] == 1
    assert loaded["described"]["provider"] == "CPUExecutionProvider"
    assert loaded["described"]["parity"].startswith("not checked on the device")
    assert one.ask("first")["first_ms"] >= 0
    warmed = one.ask("warm_up", rule=to_dict(Rule(warmup_s=0.0, warmup_limit_s=0.0)))
    assert warmed["count"] == 5  # the fewest, and the one that the tool does not time
    raw = one.ask("burst", samples=25, seconds=10.0)["raw_ms"]
    assert len(raw) == 25
    assert min(raw) > 0
    assert one.ask("end")["peak_memory_mb"] > 10
    assert not list(tmp_path.glob("perf_test_*"))


def test_a_dynamic_batch_is_set_in_the_tool(tmp_path: Path) -> None:
    one = worker(tmp_path, records(tmp_path))
    assert one.ask("load", model=model(tmp_path, shape="n", batch=4, threads=8))["batch"] == 4
    asked = (tmp_path / "asked").read_text().split()
    assert asked[:-1] == [
        *["-I", "-S", "1", "-m", "times", "-o", "99", "-e", "cpu", "-x", "8", "-f", "n:4", "-r", "1"],
        str(tmp_path / "model.onnx"),
    ]


@pytest.mark.parametrize(
    ("shape", "batch", "words"), [((2, 3), 4, "fixed batch of 2, not 4"), (("n", "h"), None, "axis beside the batch")]
)
def test_a_batch_that_does_not_fit_is_refused(
    tmp_path: Path, shape: tuple[int | str, ...], batch: int | None, words: str
) -> None:
    artifact = Artifact("onnx", "x.onnx", "", 0, "fp32", "opset 18", (TensorSpec("x", shape, "float32"),), ())
    one = Worker(Here(), PerfTest("none", str(tmp_path)), "tiny", 60.0, lambda _: artifact)
    with pytest.raises(BadRecipe, match=words):
        one.ask("load", model=model(tmp_path, batch=batch))


def test_a_provider_that_takes_no_node_is_not_the_one_that_ran(tmp_path: Path) -> None:
    one = worker(tmp_path, stand_in.write(tmp_path / "bin" / perf_test.PROGRAM), "nnapi")
    with pytest.raises(CheckFailed, match=r"run on NnapiExecutionProvider, which took none .* on CPUExecutionProvider"):
        one.ask("load", model=model(tmp_path))
    assert not list(tmp_path.glob("perf_test_*"))


def test_nodes_are_counted_once_for_each_provider() -> None:
    events = ",".join(
        f'{{"cat":"Node","name":"{name}_kernel_time","dur":3,"args":{{"provider":"{provider}Provider"}}}}'
        for name, provider in [("a", "Cpu"), ("b", "Nnapi"), ("a", "Cpu"), ("c", "Nnapi")]
    )
    assert providers_of(f'[{{"cat":"Session","name":"load","args":{{}}}},{events}]') == {
        "CpuProvider": 1,
        "NnapiProvider": 2,
    }


@pytest.mark.parametrize(
    ("words", "code", "kind", "sentence"),
    [
        ("ERROR: Unknown command line flag 'm'", 1, MissingBackend, "knows none of its own options"),
        ("perf_test [options...] model_path\nOptions:", 255, MissingBackend, "-I -S 1 .* build it from a newer"),
        ("XNNPACK is not supported in this build", 255, MissingBackend, "without xnnpack: build it with --use_xnnpack"),
        (
            'CANNOT LINK: library "libonnxruntime.so" not found',
            1,
            MissingBackend,
            "adb -s here push libonnxruntime.so /",
        ),
        ("Load model from x failed: bad.", 255, DeviceFailed, "exit code 255 while loading: Load model .* bad.$"),
        ("", 137, DeviceFailed, "was killed by SIGKILL, perhaps for want of memory, while loading"),
        ("Total iterations:1", 0, DeviceFailed, "wrote 0 of 1 samples while loading"),
    ],
)
def test_a_tool_that_fails_is_said_with_the_remedy(
    tmp_path: Path, words: str, code: int, kind: type[Exception], sentence: str
) -> None:
    one = worker(tmp_path, says(tmp_path, words, code), "xnnpack")
    with pytest.raises(kind, match=sentence):
        one.ask("load", model=model(tmp_path))


def test_other_threads_than_asked_for_are_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="with 2 threads, and onnxruntime_perf_test set 8"):
        worker(tmp_path, records(tmp_path)).ask("load", model=model(tmp_path, threads=2))


@pytest.mark.parametrize(
    ("before", "last", "settled"),
    [((), (1.0,), False), ((1.0, 1.1), (1.05, 1.06), True), ((1.0,) * 5, (1.0, 1.0, 1.0, 1.0, 2.0), False)],
)
def test_two_runs_agree_in_median_and_where_they_are_long_in_spread(
    before: tuple[float, ...], last: tuple[float, ...], settled: bool
) -> None:
    assert perf_test._agree(before, last, 0.02) is settled


def test_a_tool_that_hangs_is_ended(tmp_path: Path) -> None:
    program = tmp_path / "onnxruntime_perf_test"
    program.write_text("#!/bin/sh\nexec sleep 30\n")
    program.chmod(0o755)
    with pytest.raises(DeviceFailed, match=r"0\.1 s"):
        worker(tmp_path, program, patience_s=0.1).ask("load", model=model(tmp_path))


@pytest.mark.parametrize("do", ["run", "profile"])
def test_what_it_is_not_asked_for_is_refused(tmp_path: Path, do: str) -> None:
    with pytest.raises(MissingBackend, match="shows no outputs, so tiny cannot be checked or profiled there"):
        worker(tmp_path, tmp_path / "none").ask(do)


def test_the_tool_is_found_on_the_device_with_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(perf_test.VARIABLE, raising=False)
    places = (str(tmp_path / "first"), str(tmp_path / "it's here"))
    with pytest.raises(
        MissingBackend, match=r"has no onnxruntime_perf_test in .* adb -s here push onnxruntime_perf_test lib"
    ):
        find(Here(), str(tmp_path), str, places=places)
    program = stand_in.write(tmp_path / "it's here" / perf_test.PROGRAM)
    assert find(Here(), str(tmp_path), str, places=places) == PerfTest(str(program), str(tmp_path))
    (program.parent / "libonnxruntime.so").write_bytes(b"\x7fELF\0VERS_1.22.1\0")
    assert find(Here(), str(tmp_path), str, "xnnpack", places).version == "1.22.1"
    with pytest.raises(BadRecipe, match="not asked for cuda; choose from cpu, xnnpack, nnapi"):
        find(Here(), str(tmp_path), str, "cuda", places)


def test_a_tool_of_this_machine_is_copied_with_its_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = stand_in.write(tmp_path / "build" / perf_test.PROGRAM)
    (built.parent / "libonnxruntime.so").write_bytes(b"VERS_1.20.0")
    (built.parent / "other.o").touch()
    monkeypatch.setenv(perf_test.VARIABLE, str(built))
    there = tmp_path / "there"
    tool = find(Here(), str(tmp_path), lambda folder: shutil.copytree(folder, str(there)))
    assert tool == PerfTest(str(there / perf_test.PROGRAM), str(tmp_path), "1.20.0")
    assert sorted(file.name for file in there.iterdir()) == ["libonnxruntime.so", perf_test.PROGRAM]
    assert Path(tool.program).stat().st_mode & 0o100
    monkeypatch.setenv(perf_test.VARIABLE, str(tmp_path / "gone"))
    with pytest.raises(BadRecipe, match=r"VITEDGE_PERF_TEST names .*gone, which is not there"):
        find(Here(), str(tmp_path), str)
