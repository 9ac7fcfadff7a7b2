# SPDX-License-Identifier: Apache-2.0
"""The record of a model's cost. Frozen dataclasses without behaviour, like `vitedge.records`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """The size of a model and of one inference at batch 1."""

    parameters: int
    """Number of trainable values."""
    gmacs: float
    """Multiply-accumulates in matrix products and convolutions, in 10^9."""
    activations_mb: float
    """Sum of the outputs of all leaf modules as float32, in 10^6 bytes."""
