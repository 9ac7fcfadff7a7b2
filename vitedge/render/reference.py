# SPDX-License-Identifier: Apache-2.0
"""Renders a model that was built: its module, and its facts with the origin of each."""

from __future__ import annotations

from vitedge.models.reference import Reference
from vitedge.render.inspect import facts_table
from vitedge.render.screen import document, lines, show


def render(loaded: Reference, *, as_json: bool) -> None:
    """Prints the facts of the model."""
    if as_json:
        return document(loaded.spec)
    module = ("module", type(loaded.module).__name__, f"{loaded.spec.naming} names")
    show(facts_table(loaded.spec, module))
    lines(*(f"note: {note}" for note in loaded.spec.notes))
    return None
