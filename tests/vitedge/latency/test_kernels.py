# SPDX-License-Identifier: Apache-2.0
"""The near end in `kernels`, the far end in `profiler`, and the worker between them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.export import tiny
from tests.vitedge.onnx_models import write_model
from vitedge.devices.session import connect
from vitedge.errors import DeviceFailed
from vitedge.latency.kernels import kernel_times
from vitedge.latency.profiler import profile


def test_every_layer_of_a_program_has_kernels_of_its_name() -> None:
    with connect("local") as session:
        found = kernel_times(tiny.program("vit")[1], session)
        (worker,) = session._workers  # type: ignore[attr-defined]
        assert worker._process.wait(timeout=30) == 0
    assert all(microseconds >= 0 for microseconds in found.values())
    assert sum(found.values()) > 0
    modules = {name.partition("/")[0] for name in found}
    assert {"head", *(f"{block}.mlp.fc1" for block in tiny.BLOCKS["vit"])} <= modules


def test_the_shortest_of_the_runs_counts_and_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    x = np.zeros((1, 3, 4), np.float32)
    found = profile(str(path), 1, {"x": x}, 5)
    assert found
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


def test_a_file_that_cannot_be_run_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitedge.devices.local.Session.push", lambda _self, path: str(path.with_name("none.onnx")))
    with connect("local") as session, pytest.raises(DeviceFailed, match="the profiled program failed while being prof"):
        kernel_times(tiny.program("vit")[1], session)
