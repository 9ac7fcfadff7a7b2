# SPDX-License-Identifier: Apache-2.0
"""The command ``bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitedge.cli.options import AsJson
from vitedge.cli.values import parse_size


def bench(
    subjects: Annotated[
        list[str], typer.Argument(metavar="BUNDLE|ARTIFACT|CHECKPOINT…", help="The others are compared with the first.")
    ],
    device: Annotated[str, typer.Option(metavar="local", help="Where to run.")] = "local",
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads; all cores if not given.")] = None,
    image_size: Annotated[
        str | None, typer.Option(metavar="N|HxW", help="Pixels for a checkpoint; its own if not given.")
    ] = None,
    *,
    json: AsJson = False,
) -> None:
    """Measure latency, in turn, with its spread and tail."""
    from vitedge.files.bundle import MANIFEST
    from vitedge.render.bench import render
    from vitedge.render.screen import progress
    from vitedge.verbs.bench import bench as run

    size = parse_size(image_size)
    result = run(subjects, device=device, threads=threads, image_size=size, progress=progress)
    alone = subjects[0] if len(subjects) == 1 and (Path(subjects[0]) / MANIFEST).is_file() else None
    render(result, bundle=alone, as_json=json)
