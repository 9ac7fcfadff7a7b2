# SPDX-License-Identifier: Apache-2.0
"""The verb ``inspect``: what is in a checkpoint, without running it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitedge import registry
from vitedge.checkpoints.read import read
from vitedge.progress import stage
from vitedge.verbs.records import Inspection


def inspect(source: str, *, weights: str | None = None, overrides: Mapping[str, Any] | None = None) -> Inspection:
    """Finds out what a checkpoint is and that its weights fit; nothing of it is run.

    Args:
        source: a file, a folder, ``timm:NAME`` or ``hf:NAME``.
        weights: which set of weights, where the file holds several.
        overrides: fields of ModelSpec or Preprocessing to values.

    Raises:
        UserError: the file cannot be read, is of no known family, or does not fit its family.
    """
    # timm takes longer to import than most files to read; both go on at once.
    models = registry.in_background("vitedge.models.cost")
    with stage("inspect", whole=True):
        checkpoint = read(source, weights=weights, overrides=overrides)
        cost = models().cost(checkpoint.spec, checkpoint.state, source)
    return Inspection(
        source=source,
        container=checkpoint.container,
        size=checkpoint.size,
        weight_set=checkpoint.weight_set,
        weight_sets=checkpoint.weight_sets,
        spec=checkpoint.spec,
        cost=cost,
        dropped=checkpoint.dropped,
        steps=checkpoint.steps,
    )
