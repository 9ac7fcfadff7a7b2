# SPDX-License-Identifier: Apache-2.0
"""Activations."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the name that everybody gives it)

from vitedge.errors import UnreadableArtifact
from vitedge.mlprogram.ops.arguments import Table, integer


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


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return torch.sigmoid(x)


def softmax(x: Tensor, axis: Tensor | int = -1) -> Tensor:
    """Exponentials that sum to one along an axis."""
    return torch.softmax(x, integer(axis))


def relu(x: Tensor) -> Tensor:
    """X, at least zero."""
    return torch.relu(x)


def relu6(x: Tensor) -> Tensor:
    """X, at least zero and at most six."""
    return x.clamp(0, 6)


def leaky_relu(x: Tensor, alpha: Tensor) -> Tensor:
    """X, times alpha below zero."""
    return torch.where(x < 0, alpha * x, x)


def clamped_relu(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """X, times alpha below zero; at most beta."""
    return torch.minimum(leaky_relu(x, alpha), beta)


def thresholded_relu(x: Tensor, alpha: Tensor) -> Tensor:
    """X, and zero below alpha."""
    return torch.where(x < alpha, torch.zeros_like(x), x)


def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    """X, times its channel's alpha below zero: x (N, C, ...), alpha (C,)."""
    return leaky_relu(x, _by_channel(alpha, x))


def elu(x: Tensor, alpha: Tensor) -> Tensor:
    """X, and alpha * (exp(x) - 1) below zero."""
    return torch.where(x < 0, alpha * torch.expm1(x), x)


def linear_activation(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Alpha * x + beta."""
    return alpha * x + beta


def scaled_tanh(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Alpha * tanh(beta * x)."""
    return alpha * torch.tanh(beta * x)


def sigmoid_hard(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Alpha * x + beta, at least zero and at most one."""
    return (alpha * x + beta).clamp(0, 1)


def softplus(x: Tensor) -> Tensor:
    """Log(1 + exp(x)), without overflow."""
    return F.softplus(x)


def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Alpha * log(1 + exp(beta * x)) with each channel's own: x (N, C, ...), alpha and beta (C,)."""
    return _by_channel(alpha, x) * F.softplus(_by_channel(beta, x) * x)


def softsign(x: Tensor) -> Tensor:
    """X / (1 + abs(x))."""
    return F.softsign(x)


def _by_channel(value: Tensor, x: Tensor) -> Tensor:
    """Returns one value per channel, shaped so that it broadcasts over x (N, C, ...)."""
    return value.reshape(-1, *(1,) * (x.ndim - 2))


OPS: Table = {
    "clamped_relu": clamped_relu,
    "elu": elu,
    "gelu": gelu,
    "leaky_relu": leaky_relu,
    "linear_activation": linear_activation,
    "prelu": prelu,
    "relu": relu,
    "relu6": relu6,
    "scaled_tanh": scaled_tanh,
    "sigmoid": sigmoid,
    "sigmoid_hard": sigmoid_hard,
    "silu": silu,
    "softmax": softmax,
    "softplus": softplus,
    "softplus_parametric": softplus_parametric,
    "softsign": softsign,
    "thresholded_relu": thresholded_relu,
}
