# SPDX-License-Identifier: Apache-2.0
"""Engines measured in turn by a stand-in for trtexec, whose times are made up and cost none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.vitedge.devices.trtexec.boards import (
    DYNAMIC,
    Board,
    engine_of,
    every_version,
    posix,
    program_of,
)
from vitedge.devices import local
from vitedge.devices.messages import packed, unpacked
from vitedge.devices.runtime import Runtime
from vitedge.devices.trtexec.settings import Settings
from vitedge.devices.trtexec.worker import TrtexecWorker
from vitedge.errors import BadRecipe, DeviceFailed
from vitedge.files.plain import from_dict, to_dict
from vitedge.latency.interleave import measure_in_turn
from vitedge.latency.model import MeasuredModel
from vitedge.latency.sampling import Rule
from vitedge.records import TensorSpec

pytestmark = posix
RULE = {"warmup_s": 0.0, "warmup_limit_s": 0.0, "settle": 0.02, "patience_s": 60.0}
MS = 2.5
"""The stand-in's time of an inference of the model: half a millisecond a node."""


@pytest.fixture
def engine(tmp_path: Path) -> str:
    """An engine of 8.6 with a dynamic batch."""
    return built_for(tmp_path, "8.6")


def worker_of(folder: Path, version: str = "8.6", **settings: Any) -> TrtexecWorker:
    board = Board(folder / version, version)
    return TrtexecWorker(program_of(version, board), board.work, "the model", settings=Settings(**settings))


def built_for(folder: Path, version: str) -> str:
    return engine_of(version, folder / "here", *DYNAMIC, sizes="x:4x16x32")


@every_version
def test_every_request_is_answered(version: str, tmp_path: Path) -> None:
    worker = worker_of(tmp_path, version)
    loaded = worker.ask("load", model={"source": built_for(tmp_path, version), "batch": 2})
    assert loaded["load_ms"] == pytest.approx(400)  # one time in 8.2, the sum of two in later versions
    assert loaded["batch"] == 2
    told = "float32" if version == "8.2" else "float16"  # guessed where shapes are dynamic and layers have no context
    specs = [from_dict(TensorSpec, spec) for spec in loaded["inputs"] + loaded["outputs"]]
    assert specs == [TensorSpec("x", ("batch", 16, 32), told), TensorSpec("y", ("batch", 16, 32), told)]
    assert worker.ask("first")["first_ms"] == pytest.approx(2 * MS, rel=0.05)
    warm = worker.ask("warm_up", rule=RULE)
    assert warm["count"] > 80
    assert warm["settled"]
    raw = worker.ask("burst", samples=10, seconds=0.5)["raw_ms"]
    assert len(raw) == 10
    assert raw == pytest.approx([2 * MS] * 10, rel=0.05)  # and not the end to end of 8.2, nor the copies
    end = worker.ask("end")
    assert 0 < end["peak_memory_mb"] < 1000
    assert end["described"]["method"] == Settings().method()
    assert end["described"]["version"].startswith(version)
    assert end["described"]["warnings"] == ()  # none of our own making, such as of deprecated options


def test_a_turn_keeps_to_its_seconds(engine: str, tmp_path: Path) -> None:
    worker = worker_of(tmp_path)
    worker.ask("load", model={"source": engine, "batch": None})
    worker.ask("warm_up", rule=RULE)
    assert len(worker.ask("burst", samples=1000, seconds=0.05)["raw_ms"]) == pytest.approx(0.05e3 / MS, abs=2)
    assert len(worker.ask("burst", samples=1000, seconds=0.0)["raw_ms"]) == 1


def test_copies_count_where_they_are_asked_for(engine: str, tmp_path: Path) -> None:
    worker = worker_of(tmp_path, transfers=True)
    worker.ask("load", model={"source": engine, "batch": None})
    assert worker.ask("burst", samples=5, seconds=1.0)["raw_ms"] == pytest.approx([MS + 0.2] * 5, rel=0.05)
    assert "with copies" in worker.ask("end")["described"]["method"]


def test_outputs_are_answered_in_the_types_that_were_declared(tmp_path: Path) -> None:
    board = Board(tmp_path / "board", "10.3")
    source = engine_of("10.3", tmp_path / "here", *DYNAMIC, sizes="x:4x16x32")
    declared = (TensorSpec("x", ("batch", 16, 32), "float16"),), (TensorSpec("y", ("batch", 16, 32), "float16"),)
    worker = TrtexecWorker(program_of("10.3", board), board.work, "the model")
    told = {"inputs": to_dict(declared[0]), "outputs": to_dict(declared[1])}
    loaded = worker.ask("load", model={"source": source, "batch": 2, "declared": told})
    assert loaded["batch"] == 2
    assert len(board.typed("--loadEngine")) == 1  # a declared engine needs no run to show its inputs
    specs = [from_dict(TensorSpec, spec) for spec in loaded["inputs"] + loaded["outputs"]]
    assert specs == [*declared[0], *declared[1]]
    answer = worker.ask("run", feeds=packed({"x": np.ones((3, 16, 32), np.float16)}))
    found = unpacked(answer["outputs"])["y"]
    assert found.dtype == np.float16
    assert found.shape == (3, 16, 32)
    worker.kill()


@pytest.mark.parametrize(("version", "noise"), [("8.6", 0.02), ("11.1", 0.05)])
def test_warnings_of_trtexec_are_told(
    version: str, noise: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, worker = built_for(tmp_path, version), worker_of(tmp_path, version, transfers=True)
    for name, value in {"SPREAD": noise, "ENQUEUE": 9, "COPY": 9, "UNCAPTURED": 1}.items():
        monkeypatch.setenv(f"STAND_IN_{name}", str(value))
    worker.ask("load", model={"source": source, "batch": None})
    worker.ask("burst", samples=5, seconds=1.0)
    described = worker.ask("end")["described"]
    told = " ".join(described["warnings"])
    assert f"GPU compute time is unstable, with coefficient of variance = {100 * noise:g}%." in told
    assert "Throughput may be bound by Enqueue Time rather than GPU Compute" in told
    assert "Throughput may be bound by host-to-device transfers" in told
    assert "operations that are not permitted under CUDA graph capture mode" in told
    assert "without CUDA graph" in described["method"]  # what ran, not what was asked


def test_a_fixed_batch_is_not_another(tmp_path: Path) -> None:
    source = engine_of("8.6", tmp_path / "here")
    with pytest.raises(BadRecipe, match="the model has a fixed batch of 1, not 4; leave --batch out"):
        worker_of(tmp_path).ask("load", model={"source": source, "batch": 4})


def test_an_engine_of_another_version_is_refused(engine: str, tmp_path: Path) -> None:
    with pytest.raises(DeviceFailed, match=r"failed while loading the model: .*Version tag does not match"):
        worker_of(tmp_path, "10.3").ask("load", model={"source": engine, "batch": 1})


@pytest.mark.parametrize("version", ["8.2", "8.5", "11.1"])
def test_layers_are_timed(version: str, tmp_path: Path) -> None:
    worker = worker_of(tmp_path, version)
    times = worker.ask("profile", model={"source": built_for(tmp_path, version), "batch": 1}, inputs=[], runs=15)
    assert times == {"microseconds": {"first.proj/MatMul": 1250.0, "second.proj/MatMul": 1250.0}}


class Boards(local.Session):
    """This machine as one whose engines run in trtexec; labels give the batch that makes one slower."""

    folder: Path
    rounds = 8

    def push(self, path: Path) -> str:
        return str(path)

    def start(self, label: str, patience_s: float, runtime: str = "") -> Any:
        return worker_of(self.folder / label)


def test_a_session_runs_an_engine_like_any_artifact(engine: str, tmp_path: Path) -> None:
    session = Boards()
    session.folder = tmp_path
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 16, 32)).astype(np.float16)}
    with Runtime(session, "tensorrt", Path(engine)) as there:
        assert there.inputs == (TensorSpec("x", ("batch", 16, 32), "float16"),)
        found = there.run(feeds)["y"]
    local_session = onnxruntime.InferenceSession(tmp_path / "here" / "model.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(found, np.asarray(local_session.run(None, feeds)[0]))


def measured(session: Boards, source: str, folder: Path) -> Any:
    session.folder = folder
    models = [MeasuredModel(name, "tensorrt", source, batch, threads=1) for name, batch in (("a", 2), ("b", 4))]
    rule = Rule(warmup_s=0.0, warmup_limit_s=0.0, samples=32, seconds=1.0, rounds=session.rounds)
    return measure_in_turn(models, session, rule)


def test_engines_are_measured_in_turn(engine: str, tmp_path: Path) -> None:
    report = measured(Boards(), engine, tmp_path)
    assert not report.inconclusive
    assert [one.samples for one in report.reports] == [32, 32]
    assert [one.device["method"] for one in report.reports] == [Settings().method()] * 2
    assert [one.device["provider"] for one in report.reports] == ["Orin"] * 2
    assert [one.batch for one in report.reports] == [2, 4]
    (ratio,) = report.ratios
    assert ratio.verdict == "slower"
    assert ratio.ratio == pytest.approx(2, rel=0.05)


def test_nothing_is_concluded_from_unequal_settings(engine: str, tmp_path: Path) -> None:
    class Unequal(Boards):
        rounds = 1

        def start(self, label: str, patience_s: float, runtime: str = "") -> Any:
            return worker_of(self.folder / label, cuda_graph=label == "a")

    report = measured(Unequal(), engine, tmp_path)
    assert "b was measured by trtexec, time of the kernels, without CUDA graph" in report.inconclusive
    assert [ratio.verdict for ratio in report.ratios] == ["no conclusion"]
