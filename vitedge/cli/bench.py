# SPDX-License-Identifier: Apache-2.0
"""The command ``bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitedge.cli.options import AsJson
from vitedge.cli.values import parse_size
from vitedge.registry import LOCAL


def bench(
    subjects: Annotated[
        list[str],
        typer.Argument(metavar="BUNDLE|ARTIFACT|CHECKPOINT…", help="The others are compared with the first."),
    ],
    devices: Annotated[
        list[str] | None,
        typer.Option("--device", metavar="local|ssh:HOST|adb[:SERIAL]", help="Where to run. Repeat for several."),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads; all cores if not given.")] = None,
    image_size: Annotated[
        str | None, typer.Option(metavar="N|HxW", help="Pixels for a checkpoint; its own if not given.")
    ] = None,
    runtime: Annotated[
        str | None, typer.Option(metavar="NAME", help="What artifacts run in, such as openvino or onnxruntime-cuda.")
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json|csv", help="Keep everything; the same command goes on after an interruption."),
    ] = None,
    *,
    lock_clocks: Annotated[
        bool, typer.Option("--lock-clocks", help="Lock the clocks at their largest values, and restore them.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Measure latency in turn, with its spread, here or on devices."""
    from vitedge.files.bundle import MANIFEST
    from vitedge.render.bench import render
    from vitedge.verbs.bench import BenchOptions
    from vitedge.verbs.bench import bench as run

    size = parse_size(image_size)
    named = tuple(devices or (LOCAL,))
    options = BenchOptions(named, threads, size, runtime=runtime, save=save, lock_clocks=lock_clocks)
    result = run(subjects, options)
    is_alone = len(subjects) == 1 and options.devices == (LOCAL,) and (Path(subjects[0]) / MANIFEST).is_file()
    render(result, bundle=subjects[0] if is_alone else None, as_json=json)
    if not result.passed:
        raise typer.Exit(4)
    if result.failed:
        raise typer.Exit(5)
