# SPDX-License-Identifier: Apache-2.0
"""What is in a checkpoint, without running it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitedge.checkpoints.read import read
from vitedge.models.cost import cost
from vitedge.models.reference import check_fit, skeleton
from vitedge.records import Inspection


def inspect(source: str, *, weights: str | None = None, overrides: Mapping[str, Any] | None = None) -> Inspection:
    """Finds out what a checkpoint is and that its weights fit; nothing of it is run.

    Args:
        source: a file, a folder, ``timm:NAME`` or ``hf:NAME``.
        weights: which set of weights, where the file holds several.
        overrides: fields of ModelSpec or Preprocessing to values.

    Raises:
        UserError: the file cannot be read, is of no known family, or does not fit its family.
    """
    checkpoint = read(source, weights=weights, overrides=overrides)
    check_fit(skeleton(checkpoint.spec), checkpoint.state, checkpoint.source)
    return Inspection(
        source=source,
        container=checkpoint.container,
        size=checkpoint.size,
        weight_set=checkpoint.weight_set,
        weight_sets=checkpoint.weight_sets,
        spec=checkpoint.spec,
        cost=cost(checkpoint.spec),
        dropped=checkpoint.dropped,
    )
