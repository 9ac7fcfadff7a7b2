# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from tests.vitedge.render.samples import BENCH, latency
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


def test_it_ends_with_the_bundle_that_keeps_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.onnx").write_bytes(bytes(2_500_000))
    render(BENCH, bundle=str(tmp_path), as_json=False)
    shown = capsys.readouterr().out.splitlines()
    assert shown[-2:] == [
        f"{tmp_path}: 2.5 MB; the measurements are sealed into its manifest",
        f"next: vitedge validate {tmp_path}",
    ]
    render(BENCH, as_json=False)
    assert "next:" not in capsys.readouterr().out
