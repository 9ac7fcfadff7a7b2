# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from tests.vitedge.render.samples import BENCH, latency
from vitedge.records import BenchReport, LatencyRatio, Quantiles
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


def shown(capsys: pytest.CaptureFixture[str], report: BenchReport) -> list[str]:
    render(report, as_json=False)
    return capsys.readouterr().out.splitlines()


def test_what_median_and_tail_do_not_show_is_told_in_sentences_of_80_columns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = shown(capsys, BenchReport((latency("a.onnx", "onnxruntime", stable=False),)))
    assert [line for line in found if line.startswith("note: ")] == [
        "note: a.onnx did not run steadily (drift -5.7%); run it again on an idle machine",
        "note: a.onnx has two modes: 60% near 1234.5 ms, 40% near 1456.7 ms",
        "note: a.onnx has 12 outliers, up to 9876.5 ms; no figure leaves them out",
        "note: a.onnx: the clock's step is 15.625 ms, 1.2% of the median",
        "note: CoV above 2.5%, the machine was not quiet: a.onnx",
    ]
    assert max(map(len, found)) <= 80


def test_of_a_quiet_measurement_there_is_nothing_to_tell(capsys: pytest.CaptureFixture[str]) -> None:
    quiet = Quantiles(1.0, 1.1, 1.1, 1.2, 1.3, 1.4, 0.01, 0.0, std=0.011, maximum=1.5, resolution_ms=0.001)
    found = shown(capsys, BenchReport((latency("a", "torch", stable=True, times=quiet),)))
    assert not any(line.startswith("note: ") for line in found)
    found = shown(capsys, BenchReport((latency("a", "torch", stable=False, times=quiet),)))
    assert "note: a did not run steadily (warming up); run it again on an idle machine" in found


def test_every_statistic_is_in_one_of_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    found = shown(capsys, BenchReport((latency("a", "torch", stable=True),)))
    rows = [line.split() for line in found if line.startswith(" a ")]
    assert rows == [
        ["a", "torch", "1300.25", "1400.50", "1600.25", "12.3%", "12345", "12346", "MB"],
        ["a", "200", "1234.50", "1301.00", "1500.75", "160.54", "-5.7%", "2000.00", "1.0", "GB"],
    ]


def test_no_conclusion_comes_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    ratio = LatencyRatio("b", "a", 1.5, 1.4, 1.6, "no conclusion", "b ran 60% of the time in a slower mode, a 20%")
    found = shown(capsys, BenchReport((latency("a", "torch", stable=True),), (ratio,)))
    assert "b takes 1.50 x the time of a (95 % interval 1.40 to 1.60): no conclusion" in found
    assert "  for b ran 60% of the time in a slower mode, a 20%" in found


def test_times_of_microseconds_keep_their_digits(capsys: pytest.CaptureFixture[str]) -> None:
    fast = Quantiles(0.0056, 0.005688, 0.0057, 0.0061, None, None, 0.01, 0.0)
    found = shown(capsys, BenchReport((latency("a", "torch", stable=True, times=fast),)))
    assert next(line for line in found if line.startswith(" a ")).split()[2:4] == ["0.00569", "0.0061"]
