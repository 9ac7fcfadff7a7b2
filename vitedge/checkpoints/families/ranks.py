# SPDX-License-Identifier: Apache-2.0
"""The numbers of axes that weights have, by the last parts of their names in timm."""

from __future__ import annotations

import re

from vitedge.checkpoints.families.family import State
from vitedge.errors import WeightsMismatch

_RANKS: tuple[tuple[str, tuple[int, ...]], ...] = (
    (r"(?:.*\.)?(?:qkv|q|k|v|proj|qkv_proj|out_proj|fc|fc1|fc2|reduction|head)\.weight", (2, 4)),
    (r"(?:.*\.)?conv\w*\.weight", (4,)),
    (r"(?:.*\.)?(?:cls_token|dist_token|reg_token)", (3,)),
    (r"pos_embed", (3, 4)),
    (r"(?:.*\.)?relative_position_bias_table", (2,)),
    (r"(?:.*\.)?(?:bias|q_bias|v_bias|gamma|gamma_1|gamma_2|running_mean|running_var)", (1,)),
    (r"(?:.*\.)?norm\w*\.weight", (1,)),
)
"""Whole names, as regular expressions, to the numbers of axes that a Linear, a convolution or a vector has."""


def check_ranks(state: State) -> None:
    """Refuses weights with more or fewer axes than any model has, before their shapes are read.

    Args:
        state: weights in timm's names.

    Raises:
        WeightsMismatch: names the first of them.
    """
    for name, tensor in state.items():
        ranks = next((ranks for pattern, ranks in _RANKS if re.fullmatch(pattern, name)), None)
        if ranks is not None and tensor.ndim not in ranks:
            raise WeightsMismatch(
                f"The weight {name} has {' or '.join(map(str, ranks))} axes in every model; here its shape is "
                f"{tuple(tensor.shape)}."
            )
