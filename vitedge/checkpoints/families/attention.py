# SPDX-License-Identifier: Apache-2.0
"""Query, key and value projections: some libraries keep three matrices where timm keeps one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vitedge.checkpoints.families.family import State
from vitedge.errors import WeightsMismatch

_PARTS = ("q", "k", "v")


def join(names: Sequence[str], tensors: Sequence[Tensor]) -> Tensor:
    """Joins the parts of one layer along their first axis.

    Raises:
        WeightsMismatch: they differ in their number type, or in another axis than the first.
    """
    if len({(tensor.dtype, tensor.shape[1:]) for tensor in tensors}) > 1 or not all(t.ndim for t in tensors):
        told = ", ".join(f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}" for tensor in tensors)
        raise WeightsMismatch(f"{', '.join(names)} are parts of one layer, and do not fit together: {told}.")
    return torch.cat(list(tensors))


def join_projections(state: State) -> State:
    """Joins every ``….q.weight``, ``….k.weight`` and ``….v.weight`` (and biases) into ``….qkv.weight``, in that order.

    Raises:
        WeightsMismatch: one of the three is missing, or they do not fit together.
    """
    joined: State = {}
    for name, tensor in state.items():
        stem, _, leaf = name.rpartition(".")
        owner, _, part = stem.rpartition(".")
        if part not in _PARTS:
            joined[name] = tensor
        elif part == "q":
            names = [f"{owner}.{each}.{leaf}" for each in _PARTS]
            missing = [each for each in names if each not in state]
            if missing:
                raise WeightsMismatch(f"The checkpoint lacks {', '.join(missing)}, which belongs to {name}.")
            joined[f"{owner}.qkv.{leaf}"] = join(names, [state[each] for each in names])
        elif f"{owner}.q.{leaf}" not in state:
            raise WeightsMismatch(f"The checkpoint lacks {owner}.q.{leaf}, which belongs to {name}.")
    return joined
