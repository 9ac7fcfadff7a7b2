# SPDX-License-Identifier: Apache-2.0
"""Batch normalization at inference is a scale and a shift per channel, which the convolution before it takes in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.fx import Node

_ATEN = torch.ops.aten
_EPSILON: Mapping[Any, int] = {_ATEN.batch_norm.default: 7, _ATEN._native_batch_norm_legit_no_training.default: 6}
"""A batch normalization before and after decomposition, to the place of its epsilon among its arguments."""


Values = TypeVar("Values", Tensor, npt.NDArray[np.float32])


@dataclass(frozen=True, eq=False)
class BatchNorm(Generic[Values]):
    """The constants of a batch normalization at inference: ``(channels,)`` of one dtype, and its epsilon."""

    weight: Values
    bias: Values
    mean: Values
    variance: Values
    epsilon: float

    def fold(self, weight: Values, bias: Values | None, sqrt: Callable[[Values], Values]) -> tuple[Values, Values]:
        """Returns weight and bias of a convolution that does this normalization too.

        ``W' = W g / s`` and ``b' = (b - m) g / s + beta`` with ``s = sqrt(v + eps)`` (arXiv:1712.05877, section 3.2),
        computed in the dtype that the values have and in the order in which coremltools does it.

        Args:
            weight: of the convolution, ``(channels, in / groups, height, width)``.
            bias: of the convolution, ``(channels,)``; None counts as zeros.
            sqrt: of PyTorch or of NumPy; the last bits of the two may differ.
        """
        scale = self.weight / sqrt(self.variance + self.epsilon)
        shift = -self.mean if bias is None else bias - self.mean
        return weight * scale.reshape(-1, *[1] * (weight.ndim - 1)), scale * shift + self.bias


def folds_into(node: Node) -> Node | None:
    """Returns the convolution that a batch normalization can be folded into: one that nothing else reads.

    Returns:
        None where there is none, or where the node is no batch normalization.
    """
    before: Any = node.args[0] if node.target in _EPSILON else None
    return before if before is not None and before.target is _ATEN.conv2d.default and len(before.users) == 1 else None


def batch_norm_of(node: Node, tensor: Callable[[Any], Tensor | None]) -> BatchNorm[Tensor] | None:
    """Reads the constants of a batch normalization.

    Args:
        node: for which `folds_into` is not None.
        tensor: returns the value of an argument, or None where that depends on the image.

    Returns:
        None where one of its tensors depends on the image.
    """
    arguments: Any = node.args
    weight, bias, mean, variance = (tensor(argument) for argument in arguments[1:5])
    if weight is None or bias is None or mean is None or variance is None:
        return None
    return BatchNorm(weight, bias, mean, variance, arguments[_EPSILON[node.target]])
