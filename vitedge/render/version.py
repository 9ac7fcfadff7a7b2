# SPDX-License-Identifier: Apache-2.0
"""Shows the versions of vitedge and of what it stands on."""

from __future__ import annotations

from collections.abc import Mapping

from vitedge.registry import UNINSTALLED
from vitedge.render.screen import lines


def render(versions: Mapping[str, str]) -> None:
    """Prints a line each, vitedge's first.

    Args:
        versions: name of a package to its version.
    """
    first = {"vitedge": UNINSTALLED, **versions}
    lines(*(f"{name} {version}" for name, version in first.items()))
