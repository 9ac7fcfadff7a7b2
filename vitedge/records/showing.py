# SPDX-License-Identifier: Apache-2.0
"""Records that show themselves: as tables where they are printed, in rich, and in a notebook.

How they look is found when they are looked at; until then nothing of it is imported.
"""

from __future__ import annotations

import typing
from typing import Any

from vitedge import registry


class Shown:
    """What a verb returns: it is shown as the command line prints it."""

    def __rich__(self) -> Any:
        """Returns what rich prints: the tables and sentences of the command line."""
        return registry.imported(registry.RENDERING).drawn(self)

    def __repr__(self) -> str:
        """Returns the tables and sentences as text."""
        text: str = registry.imported(registry.RENDERING).text(self)
        return text

    def _repr_html_(self) -> str:
        html: str = registry.imported(registry.RENDERING).html(self)
        return html

    def _repr_mimebundle_(self, **_asked: Any) -> typing.Dict[str, str]:  # noqa: UP006 - Python 3.8 has no dict[]
        return {"text/plain": repr(self), "text/html": self._repr_html_()}
