# SPDX-License-Identifier: Apache-2.0
"""The limits of float16 (IEEE 754-2019, 3.6, binary16), and the inner results of operators that may exceed them.

A device may compute in float16 what lies between the input and the output of one operator: the sum of squares of a
normalization, the scores of an attention, the sum under a mean, the cube in a tanh GELU. Sums of products (linear,
conv, matmul) do not count: devices accumulate them in a wider type.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vitedge.program.attention import attention_scale

FLOAT16_MAX = 65504.0
"""The largest number of float16."""
SMALLEST_NORMAL = 2.0**-14
"""The smallest number of float16 with all 11 significant bits; a device may take zero for what is below it."""
SAFETY = 4.0
"""Other images reach further than the samples: what comes within this factor of the largest value had better be kept in
float32. Only what exceeds the largest value itself is a fault."""


def magnitude(value: Tensor) -> float:
    """Returns the largest magnitude of a float tensor: 0 where it is empty, NaN where it holds one."""
    if not value.numel():
        return 0.0
    low, high = value.aminmax()
    return max(float(high), -float(low))


def sum_of_magnitudes(value: Tensor, axes: Sequence[int]) -> float:
    """Returns the largest sum of magnitudes along the axes, which bounds every partial sum; no axes sum nothing."""
    return magnitude(value.abs().sum(tuple(axes)) if axes else value)


def sum_of_squares(value: Tensor, axes: Sequence[int]) -> float:
    """Returns the largest sum of squares along the axes, as an L2 norm computes it."""
    return sum_of_magnitudes(value.square(), axes)


def sum_of_squared_deviations(value: Tensor, axes: Sequence[int]) -> float:
    """Returns the largest sum of squared deviations from the mean along the axes, as a normalization computes it."""
    if not axes:
        return 0.0
    return magnitude((value - value.mean(tuple(axes), keepdim=True)).square().sum(tuple(axes)))


def attention_scores(query: Tensor, key: Tensor, scale: float | None = None) -> float:
    """Returns the largest score of an attention before its mask, the scale on the query.

    Args:
        query: ``(..., tokens, dim)``.
        key: ``(..., tokens, dim)``.
        scale: the factor of the scores; None is the default of `vitedge.program.attention.attention_scale`.
    """
    return magnitude((query * attention_scale(query.shape[-1], scale)) @ key.transpose(-2, -1))


def tanh_gelu_cube(value: Tensor) -> float:
    """Returns the largest ``|x|^3``, which the tanh approximation of GELU computes."""
    return magnitude(value) ** 3
