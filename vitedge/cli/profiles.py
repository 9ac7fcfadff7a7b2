# SPDX-License-Identifier: Apache-2.0
"""The command ``profiles``."""

from __future__ import annotations

from vitedge.cli.options import AsJson


def profiles(*, json: AsJson = False) -> None:
    """Print the table of devices that --for knows, with sources."""
    from vitedge.devices.profiles import profiles as table
    from vitedge.render.profiles import render

    render(table(), as_json=json)
