# SPDX-License-Identifier: Apache-2.0
"""The commands ``kit write`` and ``kit import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitedge.cli.everywhere import everywhere, remember
from vitedge.cli.options import AsJson

kit = typer.Typer(help="Verify a bundle's Core ML package on a Mac.")
kit.callback()(remember)

Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle with a Core ML package.")]


@kit.command()
@everywhere
def write(
    bundle: Bundle,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write.")],
    *,
    force: Annotated[bool, typer.Option("--force", help="Replace the kit that is there.")] = False,
    json: AsJson = False,
) -> None:
    """Write a folder with everything that a Mac needs to run the package."""
    from vitedge.render.kit import render_written
    from vitedge.verbs.kit import write as run

    render_written(run(bundle, folder, force=force), as_json=json)


@kit.command("import")
@everywhere
def import_(
    bundle: Bundle,
    result: Annotated[Path, typer.Argument(metavar="FILE", help="The result.npz that the kit's runner.pyz wrote.")],
    *,
    json: AsJson = False,
) -> None:
    """Check the results of a Mac, and seal them into the bundle."""
    from vitedge.render.kit import render_imported
    from vitedge.verbs.kit import import_result as run

    checked = run(bundle, result)
    render_imported(checked, as_json=json)
    if not checked.passed:
        raise typer.Exit(4)
