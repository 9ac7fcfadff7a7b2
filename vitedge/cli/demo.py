# SPDX-License-Identifier: Apache-2.0
"""The command ``demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitedge.cli.options import AsJson
from vitedge.progress import stage


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="The folder to write.")] = Path(
        "demo-out"
    ),
    *,
    json: AsJson = False,
) -> None:
    """Run the whole job on three small models that come with vitedge."""
    from vitedge.render.demo import render

    with stage("starting", whole=True):
        from vitedge.demo.run import run
    render(run(output), as_json=json)
