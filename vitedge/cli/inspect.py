# SPDX-License-Identifier: Apache-2.0
"""The command ``inspect``."""

from __future__ import annotations

from vitedge.cli.options import AsJson, Model, Overrides, Source, Weights
from vitedge.cli.values import as_typed, parse_overrides, with_model
from vitedge.progress import stage


def inspect(
    source: Source,
    weights: Weights = None,
    overrides: Overrides = None,
    model: Model = None,
    *,
    json: AsJson = False,
) -> None:
    """Show what a checkpoint contains, and what its model costs."""
    from vitedge.render.inspect import render

    with stage("starting", whole=True):
        from vitedge.verbs.inspect import inspect as run

    overrides = with_model(overrides, model)
    result = run(source, weights=weights, overrides=parse_overrides(overrides))
    render(result, options=as_typed(weights, overrides), as_json=json)
