# SPDX-License-Identifier: Apache-2.0
"""The command ``cache``."""

from __future__ import annotations

from typing import Annotated

import typer

from vitedge.cli.options import AsJson


def cache(
    limit: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Keep to this from now on, such as 500MB or 2GB.")
    ] = None,
    *,
    clear: Annotated[bool, typer.Option("--clear", help="Drop all that is in it.")] = False,
    json: AsJson = False,
) -> None:
    """Show where the cache is and how large; clear or limit it."""
    from vitedge.render.cache import render
    from vitedge.verbs.cache import cache as run

    render(run(limit=limit, clear=clear), as_json=json)
