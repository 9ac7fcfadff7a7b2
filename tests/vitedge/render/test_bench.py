# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from tests.vitedge.render.samples import latency
from vitedge.records import BenchReport, Quantiles
from vitedge.render.bench import render


def test_brackets_and_colons_in_names_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """They are markup to the library that draws the tables."""
    render(BenchReport((latency("[red]a[/b]:x:.onnx", "torch", stable=True),)), as_json=False)
    assert " [red]a[/b]:x:.onnx " in capsys.readouterr().out


def test_a_tail_that_was_not_measured_is_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    few = Quantiles(1.0, 1.1, 1.1, 1.2, None, None, 0.01, 0.0)
    render(BenchReport((latency("a", "torch", stable=True, times=few),)), as_json=False)
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(" a "))
    assert row.split()[:5] == ["a", "torch", "1.10", "1.20", "-"]
