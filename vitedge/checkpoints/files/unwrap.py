# SPDX-License-Identifier: Apache-2.0
"""Unwraps weights from what training scripts put around them: dictionaries, several sets, and prefixes of names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from vitedge.checkpoints.families.family import State
from vitedge.errors import BadRecipe, UnreadableCheckpoint
from vitedge.sentences import some

AVERAGED = (
    "model_ema",
    "state_dict_ema",
    "ema_state_dict",
    "model_ema_state_dict",
    "ema_model",
    "ema",
    "teacher",
    "target_encoder",
)
"""Keys of averaged weights, the ones that are published and evaluated; the first that a file holds is the default."""

TRAINED = (
    "model",
    "state_dict",
    "model_state_dict",
    "model_state",
    "net",
    "network",
    "module",
    "weights",
    "params",
    "student",
    "backbone",
    "encoder",
)
"""Keys of weights as the optimizer left them, in the order of preference."""

PREFIXES = (
    "module",
    "_orig_mod",
    "backbone",
    "encoder",
    "model",
    "net",
    "network",
    "student",
    "teacher",
    "ema",
    "ema_model",
    "model_ema",
    "target_encoder",
)
"""First parts of weight names that come from a wrapper module, not from a layer."""

BARE = "weights"
"""Name of the set of weights of a file that holds only one."""

DEEPEST = 4
_WRAPPING = "(?:module\\.|_orig_mod\\.)*"


@dataclass(frozen=True)
class WeightSet:
    """A set of weights of a file, such as the trained or the averaged ones."""

    name: str
    state: State
    dropped: Mapping[str, str] = field(default_factory=dict)
    """Name of each entry that counts training steps and is no weight, to the reason why it is dropped."""


def weight_sets(content: Any, where: str) -> dict[str, WeightSet]:
    """Finds all sets of weights in the content of a container, the default one first.

    Args:
        content: as `vitedge.checkpoints.files.container.Container.content`.
        where: the file, for messages.

    Raises:
        UnreadableCheckpoint: no weights anywhere, or tensors that claim more elements than the file holds.
    """
    found: dict[str, State] = {}
    for path, state in _states(content, (), set()):
        for name, part in _split(".".join(path) or BARE, state).items():
            found.setdefault(name, part)
    if not found:
        kind = type(content).__name__
        holds = f"only {some(str(key) for key in content)}" if isinstance(content, Mapping) else f"a {kind}"
        raise UnreadableCheckpoint(
            f"{where} holds no weights, {holds}; pass the file that the state_dict was saved to."
        )
    for name, state in found.items():
        _check_extent(f"{where} ({name})", state)
    return {name: _cleaned(name, found[name]) for name in sorted(found, key=_preference)}


def choose(sets: Mapping[str, WeightSet], name: str | None, where: str) -> WeightSet:
    """Returns the set of that name; without a name the averaged weights, or the only set.

    Raises:
        BadRecipe: there is no set of that name.
    """
    if name is None:
        return next(iter(sets.values()))
    if name not in sets:
        raise BadRecipe(f"{where} has no weights {name!r}; --weights can be {', '.join(sets)}.")
    return sets[name]


def spellings(state: State) -> Iterator[State]:
    """Yields the weights under their own names, then with one wrapper's prefix after the other removed.

    A name that does not carry the wrapper's prefix keeps its own. A prefix whose removal would make two weights one
    is left on.
    """
    yield state
    seen = [frozenset(state)]
    while (prefix := _prefix(state)) is not None:
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        if frozenset(state) in seen:
            return
        seen.append(frozenset(state))
        yield state


def _prefix(state: State) -> str | None:
    counts = Counter(name.split(".", 1)[0] for name in state if "." in name)
    for part, _ in counts.most_common():
        bare = {name.removeprefix(f"{part}.") for name in state}
        if part in PREFIXES and len(bare) == len(state):
            return f"{part}."
    return None


def _states(content: Any, path: tuple[str, ...], seen: set[int]) -> Iterator[tuple[tuple[str, ...], State]]:
    if not isinstance(content, Mapping) or len(path) > DEEPEST or id(content) in seen:
        return
    seen.add(id(content))
    known = [key for key in (*AVERAGED, *TRAINED) if key in content]
    inner = [found for key in known for found in _states(content[key], (*path, key), seen)]
    own = _tensors(content)
    named = any("." in name for name in own)
    if inner and not named:
        yield from inner
    elif any(tensor.is_floating_point() and tensor.ndim for tensor in own.values()):
        yield path, own
    else:
        others = [key for key in content if isinstance(key, str) and key not in known]
        found = [found for key in others for found in _states(content[key], (*path, key), seen)]
        # Under a key that says nothing only dotted names are weights: an optimizer's state has none.
        yield from (entry for entry in found if any("." in name for name in entry[1]))


def _tensors(content: Mapping[Any, Any]) -> State:
    return {str(key): value.detach() for key, value in content.items() if isinstance(value, torch.Tensor)}


def _split(name: str, state: State) -> dict[str, State]:
    """Takes apart a flat dictionary that holds averaged and trained weights side by side."""
    groups: dict[str, list[str]] = {}
    for key in state:
        first = re.sub(f"^{_WRAPPING}", "", key).split(".", 1)[0]
        if first in AVERAGED or first in TRAINED:
            groups.setdefault(first, []).append(key)
    if len(groups) < 2 or not any(group in AVERAGED for group in groups):
        return {name: state}
    parts: dict[str, State] = {}
    rest = state.keys() - {key for keys in groups.values() for key in keys}
    for group, keys in groups.items():
        pattern = re.compile(f"^{_WRAPPING}{re.escape(group)}\\.")
        parts[group] = {key: state[key] for key in rest} | {pattern.sub("", key): state[key] for key in keys}
    return parts


def _check_extent(where: str, state: State) -> None:
    """Refuses tensors that repeat a few bytes without end: summing or converting them would take all memory."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in state.values()}
    held, claimed = sum(storages.values()), sum(tensor.nbytes for tensor in state.values())
    if claimed > 4 * held + 2**20:
        raise UnreadableCheckpoint(
            f"{where} is refused: its tensors claim {claimed} bytes and the file holds {held} for them; save it again."
        )


def _cleaned(name: str, state: State) -> WeightSet:
    dropped = {key: "counts the averaging steps" for key in state if key.rpartition(".")[2] == "n_averaged"}
    return WeightSet(name, {key: tensor for key, tensor in state.items() if key not in dropped}, dropped)


def _preference(name: str) -> tuple[int, int]:
    order = (*AVERAGED, *TRAINED)
    ranks = [order.index(part) for part in name.split(".") if part in order]
    return (min(ranks, default=len(order)), len(name))
