# SPDX-License-Identifier: Apache-2.0
"""The functions `vitedge.bench` and `vitedge.doctor`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vitedge.api.settings import combined, several, size
from vitedge.api.sources import as_sources
from vitedge.devices.health.records import Checkup
from vitedge.latency.sampling import Rule
from vitedge.progress import Progress
from vitedge.records import BenchReport
from vitedge.registry import LOCAL
from vitedge.verbs.bench import BenchOptions
from vitedge.verbs.bench import bench as run_bench
from vitedge.verbs.doctor import doctor as run_doctor

if TYPE_CHECKING:
    from vitedge.api.sources import Model


def bench(
    subjects: Model | Sequence[Model],
    options: BenchOptions | None = None,
    *,
    device: str | Sequence[str] | None = None,
    threads: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    runtime: str | None = None,
    rule: Rule | None = None,
    save: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> BenchReport:
    """Measures latency: all subjects in turn, each in a process of its own, and each against the first.

    Args:
        subjects: one or several of: bundles, artifacts and checkpoints; modules in memory, state dicts, what `load` or
            `export` returned. Checkpoints run in PyTorch here, and as an fp32 ONNX file on other devices. The
            latency of a bundle that is measured alone and here is written into its manifest. A ``.json`` file of an
            earlier run is shown beside them.
        options: these settings and further ones; what is said twice has to be alike.
        device: ``local``, ``ssh:HOST`` or ``adb``, or several; elsewhere the outputs of bundles are checked first.
        threads: processor threads; None is all physical cores, the same for every runtime.
        image_size: height and width of checkpoints in pixels, one number for both; None is their own.
        runtime: the runtime that every artifact has to run in; None is the usual one of its format.
        rule: how long to warm up and to measure; None is at least 200 samples or 10 seconds.
        save: a ``.json`` file that keeps everything, from which an interrupted run goes on; or a ``.csv``.
        progress: who is told how far it is: such as ``print``, or a ``rich.progress.Progress``.

    Returns:
        Quantiles in milliseconds and all samples of every subject, and its ratio to the first with a 95 % interval.

    Raises:
        UserError: a subject is not there or cannot be read.
        MissingBackend: nothing of a bundle runs on the device.
        CheckFailed: a runtime did not take the provider that was asked for.
        DeviceFailed: a process died, hung or failed, or the device cannot be reached.

    Example:
        >>> from vitedge.latency.sampling import Rule
        >>> report = vitedge.bench("bundle", threads=1, rule=Rule(warmup_s=0.2, samples=40))
        >>> [(row.subject, row.runtime, row.samples) for row in report.reports]
        [('bundle/model.onnx', 'onnxruntime', 40)]
    """
    where = {"devices": several(device), "threads": threads, "image_size": size(image_size), "runtime": runtime}
    said = {**where, "rule": rule, "save": None if save is None else Path(save)}
    return run_bench(as_sources(subjects), combined(BenchOptions, options, said), progress)


def doctor(device: str = LOCAL, profile: str = "", *, progress: Progress | None = None) -> Checkup:
    """Finds out what this machine or a device is, what works there, and what mends what does not.

    Args:
        device: ``local``, ``ssh:HOST`` or ``adb``.
        profile: the profile that it has to serve, or ``auto`` for the one that fits; empty tries what is installed.
        progress: who is told how far it is: such as ``print``, or a ``rich.progress.Progress``.

    Returns:
        What was tried, with its outcome and remedy; ``broken`` and ``missing`` name what fails.

    Raises:
        BadRecipe: there is no such device or profile.
        DeviceFailed: the device cannot be reached.

    Example:
        >>> checkup = vitedge.doctor()
        >>> [one.state for one in checkup.abilities if one.name == "run onnxruntime"]
        ['works']
    """
    return run_doctor(device, profile, progress=progress)
