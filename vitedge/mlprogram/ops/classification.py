# SPDX-License-Identifier: Apache-2.0
"""The outputs of a classifier: label and table of probabilities."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from vitedge.errors import UnreadableArtifact
from vitedge.mlprogram.ops.arguments import Table


def classify(probabilities: Tensor, classes: Iterable[Any]) -> tuple[str | int, dict[str | int, float]]:
    """Returns the label of the largest probability, the first of equal ones, and the table of probabilities by label.

    Args:
        probabilities: as many values as there are classes, in any shape.
        classes: strings or integers; of two equal ones the table keeps the last.

    Raises:
        UnreadableArtifact: the numbers of classes and of probabilities differ, or there are none.
    """
    values = probabilities.reshape(-1).tolist()
    labels = [label if isinstance(label, str) else int(label) for label in classes]
    if not values or len(values) != len(labels):
        raise UnreadableArtifact(f"There are {len(labels)} classes for {len(values)} probabilities.")
    return labels[values.index(max(values))], dict(zip(labels, values, strict=True))


OPS: Table = {"classify": classify}
