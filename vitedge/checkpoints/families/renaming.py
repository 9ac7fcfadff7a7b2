# SPDX-License-Identifier: Apache-2.0
"""Translates the names of weights by a table, so that no weight is lost on the way without a reason."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import torch

from vitedge.checkpoints.families.family import Converted, State
from vitedge.errors import WeightsMismatch

Rule = tuple[str, "str | Callable[[re.Match[str]], str]"]
"""A regular expression that matches a whole name, and its replacement as `re.sub` takes it."""

_SHOWN = 4


def rename(state: State, rules: Iterable[Rule], drops: Mapping[str, str], source: str) -> Converted:
    """Gives every weight the name of the first rule that matches it.

    Args:
        state: weights in the names of the file.
        rules: tried in order.
        drops: regular expressions of weights that the export does not need, to the reason.
        source: the naming, for the message.

    Raises:
        WeightsMismatch: no rule places a weight, or two weights are given one name.
    """
    patterns = [(re.compile(pattern), replacement) for pattern, replacement in rules]
    renamed: State = {}
    dropped: dict[str, str] = {}
    unplaced: list[str] = []
    for name, tensor in state.items():
        reason = next((text for pattern, text in drops.items() if re.fullmatch(pattern, name)), None)
        found = next((pair for pair in patterns if pair[0].fullmatch(name)), None)
        if reason is not None:
            dropped[name] = reason
        elif found is None:
            unplaced.append(name)
        else:
            target = found[0].sub(found[1], name)
            if target in renamed:
                raise WeightsMismatch(f"Two weights of the {source} checkpoint mean {target}; one of them is {name}.")
            renamed[target] = tensor
    if unplaced:
        raise WeightsMismatch(f"The {source} checkpoint holds weights that have no place: {_listed(unplaced)}.")
    return Converted(renamed, dropped)


def with_batch_counters(state: State) -> State:
    """Returns the state with zeros for BatchNorm counters that a file leaves out; evaluation never uses them."""
    completed = dict(state)
    for name in state:
        if name.endswith(".running_mean"):
            completed.setdefault(f"{name.removesuffix('running_mean')}num_batches_tracked", torch.tensor(0))
    return completed


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
