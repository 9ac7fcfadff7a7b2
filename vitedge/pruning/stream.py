# SPDX-License-Identifier: Apache-2.0
"""The inputs of a model's blocks over all calibration images, one block after the other.

Where a block takes nothing but what the block before it gave, its inputs are computed from the kept ones; elsewhere
the model runs from its beginning up to that block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from vitedge.pruning.draft import Batches

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional arguments and keywords of a block for one batch."""


@dataclass(frozen=True)
class Tap:
    """A place in a block: the first input of one of its modules, or its output."""

    module: str
    """Name in the model."""
    is_input: bool


class _Reached(Exception):  # noqa: N818 - it reports no error
    """The last module whose values are wanted was reached."""


class BlockStream:
    """The inputs of one block at a time.

    Args:
        module: the model; a block may change until the next one is asked for.
        batches: normalized images.
        blocks: names of the blocks, in order of execution.
    """

    def __init__(self, module: nn.Module, batches: Batches, blocks: Sequence[str]) -> None:
        self._module = module
        self._batches = batches
        self._chained = _chained(module, batches, blocks)
        self._calls: list[Call] = []
        self._outputs: list[Any] = []
        self._at = ""

    def advance(self, block: str) -> None:
        """Goes on to a block; blocks come in order of execution."""
        if block == self._at:
            return
        if self._at and self._chained.get(block) == self._at:
            if not self._outputs:
                owner = self._module.get_submodule(self._at)
                self._outputs = [owner(*args, **keywords) for args, keywords in self._calls]
            pairs = zip(self._calls, self._outputs, strict=True)
            self._calls = [((output, *args[1:]), keywords) for (args, keywords), output in pairs]
        else:
            self._calls = []
            self._calls = [self._captured(block, batch) for batch in self._batches]
        self._outputs = []
        self._at = block

    def tapped(self, taps: Sequence[Tap], *, keep: bool = False) -> Iterator[list[Tensor]]:
        """Runs the block for batch after batch as far as its taps need, and yields the values at these.

        Args:
            taps: places in the block.
            keep: run it to its end and keep its outputs, so that `advance` need not: it will not change any more.
        """
        owner = self._module.get_submodule(self._at)
        outputs = []
        for args, keywords in self._calls:
            with _watching(self._module, taps, stop=not keep) as found, suppress(_Reached):
                outputs.append(owner(*args, **keywords))
            yield [found[tap] for tap in taps]
        self._outputs = outputs if keep else []

    def _captured(self, block: str, batch: Tensor) -> Call:
        found: list[Call] = []

        def stop(_module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            found.append((args, keywords))
            raise _Reached

        handle = self._module.get_submodule(block).register_forward_pre_hook(stop, with_kwargs=True)
        try:
            self._module(batch)
        except _Reached:
            return found[0]
        finally:
            handle.remove()
        raise ValueError(f"{block} is not run")


@contextmanager
def _watching(module: nn.Module, taps: Sequence[Tap], *, stop: bool) -> Iterator[dict[Tap, Tensor]]:
    """Yields the values at taps, as they come; with ``stop``, `_Reached` ends the run when all are there."""
    found: dict[Tap, Tensor] = {}

    def keep(tap: Tap, value: Tensor) -> None:
        found[tap] = value
        if stop and len(found) == len(taps):
            raise _Reached

    handles = []
    for tap in taps:
        place = module.get_submodule(tap.module)
        if tap.is_input:
            handles.append(place.register_forward_pre_hook(lambda _module, args, tap=tap: keep(tap, args[0])))
        else:
            handles.append(place.register_forward_hook(lambda _module, _args, output, tap=tap: keep(tap, output)))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _chained(module: nn.Module, batches: Batches, blocks: Sequence[str]) -> dict[str, str]:
    """Returns each block whose first input is the output of the one before, with the same other inputs."""
    before: dict[str, Call] = {}
    after: dict[str, Any] = {}

    def enter(name: str) -> Any:
        return lambda _module, args, keywords: before.__setitem__(name, (args, keywords))

    def leave(name: str) -> Any:
        return lambda _module, _args, output: after.__setitem__(name, output)

    handles = []
    for name in blocks:
        handles += [
            module.get_submodule(name).register_forward_pre_hook(enter(name), with_kwargs=True),
            module.get_submodule(name).register_forward_hook(leave(name)),
        ]
    try:
        module(next(iter(batches))[:1])
    finally:
        for handle in handles:
            handle.remove()
    chained = {}
    for previous, name in pairwise(blocks):
        (args, keywords), (old_args, old_keywords) = before[name], before[previous]
        same = len(args) == len(old_args) and all(a is b for a, b in zip(args[1:], old_args[1:], strict=True))
        if args and args[0] is after[previous] and same and _same(keywords, old_keywords):
            chained[name] = previous
    return chained


def _same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(first[key] is second[key] for key in first)
