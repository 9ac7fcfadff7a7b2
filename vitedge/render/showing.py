# SPDX-License-Identifier: Apache-2.0
"""Renders a record where it is looked at in Python: with rich, in a notebook, or as plain text."""

from __future__ import annotations

from rich.console import Group

from vitedge import registry
from vitedge.render.screen import as_html, as_text, collected


def drawn(record: object) -> Group:
    """Returns the tables and sentences that the command line prints of a record, for rich."""
    with collected() as parts:
        registry.load(registry.RENDERERS, type(record).__name__).render(record, as_json=False)
    return Group(*parts)


def text(record: object) -> str:
    """Returns the tables and sentences of a record as plain text, as wide as the terminal."""
    return as_text(drawn(record))


def html(record: object) -> str:
    """Returns the tables and sentences of a record as HTML, for a notebook."""
    return as_html(drawn(record))
