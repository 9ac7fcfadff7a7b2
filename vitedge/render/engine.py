# SPDX-License-Identifier: Apache-2.0
"""Renders the kernels of an engine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table

from vitedge.export.tensorrt.records import EngineLayer
from vitedge.render.screen import table


def kernel_table(layers: Iterable[EngineLayer]) -> Table:
    """Returns a table of a row a kernel, with the first module that it computes for."""
    drawn = table("module", "kernel", "reads", "weights", "writes")
    for layer in layers:
        modules = list(dict.fromkeys(node.partition("/")[0] for node in layer.nodes if "/" in node))
        more = f" and {len(modules) - 1} more" if len(modules) > 1 else ""
        named = f"{modules[0]}{more}" if modules else "-"
        drawn.add_row(named, layer.kind, *(_types(found) for found in (layer.inputs, layer.constants, layer.outputs)))
    return drawn


def _types(found: Sequence[str]) -> str:
    return " ".join(dict.fromkeys(found)) or "-"
