# SPDX-License-Identifier: Apache-2.0
"""The command ``doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

from vitedge.cli.options import AsJson


def doctor(
    device: Annotated[
        str, typer.Option(metavar="local|ssh:HOST|adb[:SERIAL]", help="Which machine; this one if not given.")
    ] = "local",
    profile: Annotated[
        str,
        typer.Option(
            "--for", metavar="PROFILE|auto", help="Check what a profile needs; whatever is installed if not given."
        ),
    ] = "",
    *,
    json: AsJson = False,
) -> None:
    """Tell what a device is, what works there, and how to mend it.

    Exit 0: all that is asked works; 3: some of it is not installed; 4: some of it is broken; 5: out of reach.
    """
    from vitedge.render.doctor import render
    from vitedge.verbs.doctor import doctor as run

    result = run(device, profile)
    render(result, as_json=json)
    if result.broken or result.missing:
        raise typer.Exit(4 if result.broken else 3)
