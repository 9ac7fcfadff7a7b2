# SPDX-License-Identifier: Apache-2.0
"""Activations."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the name that everybody gives it)

from vitedge.errors import UnreadableArtifact
from vitedge.mlprogram.ops.arguments import Table


def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    """Gaussian error linear unit, exact or by one of its approximations."""
    if mode == "EXACT":
        return F.gelu(x)
    if mode == "TANH_APPROXIMATION":
        return F.gelu(x, approximate="tanh")
    if mode == "SIGMOID_APPROXIMATION":
        return x * (1.702 * x).sigmoid()
    raise UnreadableArtifact(f"There is no mode {mode!r} of gelu.")


def silu(x: Tensor) -> Tensor:
    """Sigmoid linear unit."""
    return F.silu(x)


OPS: Table = {
    "gelu": gelu,
    "silu": silu,
}
