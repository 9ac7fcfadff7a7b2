# SPDX-License-Identifier: Apache-2.0
"""The scale of an attention's scores."""

from __future__ import annotations

import math


def attention_scale(dim: int, scale: float | None = None) -> float:
    """Returns the factor of an attention's scores: the one that is given, or ``1 / sqrt(dim)``.

    That is the default of ``scaled_dot_product_attention`` (arXiv:1706.03762, section 3.2.1).

    Args:
        dim: channels of one head.
        scale: the operator's argument.
    """
    return 1 / math.sqrt(dim) if scale is None else scale
