# SPDX-License-Identifier: Apache-2.0
"""The verify kit: where it was written, and what to do with it."""

from __future__ import annotations

import shlex

from vitedge.render.screen import document, lines, next_command


def kit(bundle: str, folder: str, *, as_json: bool) -> None:
    """Prints where a kit was written, and what to do with it."""
    if as_json:
        return document({"bundle": bundle, "kit": folder})
    lines(
        f"{folder}: copy it to a Mac and type there: python verify.py",
        next_command(f"vitedge validate {shlex.quote(bundle)} --import result.npz"),
    )
    return None
