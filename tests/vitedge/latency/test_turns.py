# SPDX-License-Identifier: Apache-2.0
"""Tests of `turns` and of the device's state over them, `watch`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.vitedge.onnx_models import write_model
from vitedge.devices.local import Session
from vitedge.devices.watcher import Watcher
from vitedge.errors import ConnectionLost, DeviceFailed
from vitedge.latency.interleave import measure_in_turn
from vitedge.latency.model import MeasuredModel
from vitedge.latency.sampling import Rule
from vitedge.latency.turns import CONNECTIONS, _take, size_of
from vitedge.progress import reporting

QUICK = Rule(warmup_s=0.0, warmup_limit_s=0.0, samples=40, seconds=2.0, rounds=10)


class Turns:
    """A stand-in for a model, which is done after some turns."""

    def __init__(self, needed: int) -> None:
        self.needed, self.taken = needed, 0
        self.rounds: list[tuple[float, ...]] = []

    def take_turn(self) -> None:
        self.taken += 1

    def is_done(self) -> bool:
        return self.taken >= self.needed


@pytest.mark.parametrize(
    ("rounds", "needed", "taken"), [(20, (20, 20), 20), (20, (2, 1), 8), (20, (20, 23), 23), (5, (1, 1), 5)]
)
def test_turns_go_on_until_all_have_enough(rounds: int, needed: tuple[int, int], taken: int) -> None:
    runs = [Turns(count) for count in needed]
    _take(runs, Rule(rounds=rounds))  # type: ignore[arg-type]
    assert [run.taken for run in runs] == [taken, taken]


class Worker:
    """A stand-in for a process there, whose connection is lost at certain requests."""

    def __init__(self, session: Unreliable) -> None:
        self._session = session

    def ask(self, do: str, **_arguments: Any) -> dict[str, Any]:
        self._session.asked.append(do)
        if len(self._session.asked) in self._session.losses:
            raise ConnectionLost("The connection to ssh:board was lost: reset by peer.")
        answers: dict[str, dict[str, Any]] = {
            "load": {"load_ms": 1.0, "batch": 1, "described": {"library": "none"}},
            "first": {"first_ms": 2.0},
            "warm_up": {"count": 4, "settled": True},
            "burst": {"raw_ms": [1.0, 1.1, 1.2, 1.3], "span_s": [-1.0, -1.0]},
            "end": {"peak_memory_mb": 1.0},
        }
        return answers[do]


class Unreliable(Session):
    """A stand-in for a device whose connection is lost."""

    name = "ssh:board"

    def __init__(self, losses: tuple[int, ...]) -> None:
        super().__init__()
        self.losses, self.connected = losses, 0
        self.asked: list[str] = []

    def start(self, label: str, patience_s: float, runtime: str = "") -> Any:
        del label, patience_s, runtime
        return Worker(self)

    def watch(self) -> Watcher:
        return Watcher(None)

    def reconnect(self) -> None:
        self.connected += 1


MODELS = [MeasuredModel("a", "onnxruntime", "timm:a"), MeasuredModel("b", "onnxruntime", "timm:b")]


def test_rounds_before_a_lost_connection_are_kept_and_pairs_stay_pairs() -> None:
    said: list[str] = []
    session = Unreliable((14,))  # 6 requests of preparation, and then a b a b a b a (b)
    with reporting(said.append):
        found = measure_in_turn(MODELS, session, QUICK)
    assert session.connected == 1
    assert [report.samples for report in found.reports] == [40, 40]
    assert session.asked.count("burst") == 8 + 2 * 7
    assert found.notes == (
        "ssh:board: the connection was lost after round 3; the models were loaded again and measured on",
    )
    assert "reset by peer. Connecting again; 3 rounds are kept." in " ".join(said)
    assert found.reports[0].where == "ssh:board"
    assert found.reports[0].watch is None


def test_a_connection_that_is_always_lost_ends_the_measurement() -> None:
    session = Unreliable(tuple(range(1, 100)))
    with pytest.raises(DeviceFailed, match=f"It was the {CONNECTIONS}th time in this measurement"):
        measure_in_turn(MODELS, session, QUICK)
    assert session.connected == CONNECTIONS - 1


def test_this_machine_is_read_while_a_model_runs(tmp_path: Path) -> None:
    model = MeasuredModel("a", "onnxruntime", str(write_model(tmp_path / "a.onnx", depth=200)))
    rule = Rule(warmup_s=0.6, warmup_limit_s=0.6, samples=100_000, seconds=1.2, rounds=8)
    session = Session()
    try:
        (report,) = measure_in_turn([model], session, rule).reports
    finally:
        session.close()
    if report.watch is not None:  # a virtual machine may show neither clocks nor temperatures
        assert report.watch.samples >= 1
        assert 0.5 < report.watch.seconds < 3
    assert report.measured.endswith("+00:00")
    assert report.device["before"].keys() == report.device["after"].keys()


def test_size_counts_weights_that_lie_beside_the_file(tmp_path: Path) -> None:
    alone, split = write_model(tmp_path / "a.onnx"), write_model(tmp_path / "b.onnx", external=True)
    assert size_of(alone) == alone.stat().st_size
    assert size_of(split) == split.stat().st_size + (tmp_path / "b.onnx.data").stat().st_size
    assert size_of(tmp_path) == size_of(alone) + size_of(split)
    assert size_of(Path("timm:vit_tiny_patch16_224")) == 0
