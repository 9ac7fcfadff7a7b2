# SPDX-License-Identifier: Apache-2.0
"""Runs of ``bench`` that are kept in files: all of it as JSON, from which an interrupted run goes on, or a CSV."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vitedge.errors import BadRecipe, OutputRefused, UnreadableArtifact
from vitedge.files import own_files
from vitedge.files.plain import from_dict, to_dict
from vitedge.files.replacing import refuse_existing_file, write_file
from vitedge.records import BenchReport, LatencyReport

SUFFIXES = (".json", ".csv")
_COLUMNS = (
    "device", "model", "subject", "runtime", "provider", "batch", "threads", "samples", "min_ms", "median_ms",
    "mean_ms", "p90_ms", "p95_ms", "p99_ms", "max_ms", "cov", "drift", "load_ms", "first_ms", "peak_memory_mb",
    "file_bytes", "energy_per_inference_j", "throttled", "stable", "measured",
)  # fmt: skip


class SavedRun:
    """A run that is written to its file after every device.

    Args:
        path: the file; None keeps nothing.
        asked: what was asked for; a file of something else is not continued.

    Raises:
        BadRecipe: the file has another suffix.
        OutputRefused: the file holds another run, or something else.
    """

    def __init__(self, path: Path | None, asked: Mapping[str, Any]) -> None:
        self._path = path
        self.report = BenchReport((), asked=asked)
        if path is None:
            return
        if path.suffix not in SUFFIXES:
            raise BadRecipe(f"--save takes a file that ends in {' or '.join(SUFFIXES)}; got {path.name}.")
        _check_writable(path)
        if path.suffix == ".csv" and path.exists():
            raise OutputRefused(f"{path} is there already: choose another --save file, or keep the run as .json.")
        if path.suffix == ".json" and path.exists():
            earlier = read_run(path)
            if json.dumps(to_dict(earlier.asked)) != json.dumps(to_dict(asked)):  # the first subject is the baseline
                raise OutputRefused(f"{path} holds a run of other subjects or settings: choose another --save file.")
            self.report = replace(earlier, failed={})

    @property
    def done(self) -> frozenset[str]:
        """The devices that the file has already."""
        return frozenset(report.where for report in self.report.reports)

    def add(self, found: BenchReport) -> None:
        """Adds what one device measured, and writes the file."""
        mine = self.report
        self.report = replace(
            mine,
            reports=mine.reports + found.reports,
            ratios=mine.ratios + found.ratios,
            inconclusive=mine.inconclusive or found.inconclusive,
            left_out={**mine.left_out, **found.left_out},
            parity=mine.parity + found.parity,
            notes=mine.notes + found.notes,
        )
        self._write()

    def fail(self, device: str, sentence: str) -> None:
        """Adds a device that failed, and writes the file; the next run of the same tries it again."""
        self.report = replace(self.report, failed={**self.report.failed, device: sentence})
        self._write()

    def _write(self) -> None:
        if self._path is None:
            return
        text = table(self.report) if self._path.suffix == ".csv" else json.dumps(to_dict(self.report), indent=1) + "\n"
        write_file(self._path, text.encode())


def _check_writable(path: Path) -> None:
    """Refuses a file that cannot be written, before minutes are spent on what goes into it.

    Raises:
        OutputRefused: it is a folder, or no file can be made where it lies.
    """
    refuse_existing_file(path, force=True)
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            return
    except OSError as error:
        raise OutputRefused(f"{path} cannot be written: {error.strerror}; choose another --save file.") from error


def is_saved_run(name: str) -> bool:
    """Returns whether a subject is the file of a run, by its suffix."""
    return Path(name).suffix == ".json" and not Path(name).is_dir()


def read_run(path: Path) -> BenchReport:
    """Returns the run that a file keeps.

    Raises:
        UnreadableArtifact: it is not there, or holds none.
    """
    if not path.exists():
        raise UnreadableArtifact(f"{path} is not there: a saved run is what vitedge bench --save FILE.json wrote.")
    if not own_files.is_saved_run(path) and (said := own_files.instead_of_artifact(path)):
        raise UnreadableArtifact(f"{path} {said}.")
    try:
        return from_dict(BenchReport, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError, BadRecipe) as error:
        raise UnreadableArtifact(f"{path} is no run that vitedge bench --save wrote: {error}") from error


def table(report: BenchReport) -> str:
    """Returns the figures as CSV, a row for each subject and device."""
    written = io.StringIO(newline="")
    rows = csv.writer(written)
    rows.writerow(_COLUMNS)
    rows.writerows(_row(one) for one in report.reports)
    return written.getvalue()


def _row(one: LatencyReport) -> tuple[Any, ...]:
    times, watch = one.quantiles, one.watch
    return (
        one.where, one.device.get("model", ""), one.subject, one.runtime, one.device.get("provider", ""), one.batch,
        one.device.get("threads", ""), one.samples, times.minimum, times.median, times.mean, times.p90, times.p95,
        times.p99, times.maximum, times.cov, times.drift, one.load_ms, one.first_ms, one.peak_memory_mb, one.file_size,
        watch.energy_per_inference_j if watch else None, "; ".join(watch.throttled) if watch else "", one.stable,
        one.measured,
    )  # fmt: skip
