# SPDX-License-Identifier: Apache-2.0
"""The inputs of blocks and layers on the calibration images, computed by the model as it is by then.

Where a block reads what the one before returns, its inputs are that one's outputs, which are kept; in front of any
other block, the images run through the whole model up to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from vitedge.models.blocks import TransformerBlock
from vitedge.pruning.draft import Batches

LARGEST_CACHE = 3 * 2**29
"""Bytes of activations that are kept at most; beyond, every pass starts from the images."""
Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments of a module, by position and by name."""


class Replay:
    """Feeds the blocks of a model one after the other, while their weights change."""

    def __init__(self, module: nn.Module, blocks: Sequence[TransformerBlock], images: Batches) -> None:
        self._module, self._blocks, self._images = module, blocks, images
        self._at = ""
        self._calls: list[Call] = []
        self._follows = _followers(module, blocks, next(iter(images)))

    def inputs(self, block: TransformerBlock) -> Iterator[Call]:
        """Yields the arguments of a block for every batch of images."""
        if self._at == block.name:
            yield from self._calls
            return
        calls: list[Call] = []
        size, fits = 0, True
        for batch in self._images:
            call = _arguments(self._module, block.module, (batch,), {})
            size += _bytes(call)
            fits = fits and size <= LARGEST_CACHE
            calls = [*calls, call] if fits else []
            yield call
        self._at, self._calls = (block.name, calls) if fits else ("", [])

    def leave(self, block: TransformerBlock) -> None:
        """Moves on behind a block, whose weights do not change any more."""
        following = self._follows.get(block.name, "")
        if self._at == block.name and following:
            for index, (arguments, named) in enumerate(self._calls):
                self._calls[index] = ((block.module(*arguments, **named), *arguments[1:]), named)
            self._at = following
        else:
            self._at, self._calls = "", []


def layer_inputs(
    block: TransformerBlock, call: Call, watched: Sequence[nn.Module], *, stop_at: nn.Module | None = None
) -> dict[nn.Module, Tensor]:
    """Returns the inputs of some modules of a block; of those that it calls.

    Args:
        block: the block.
        call: its arguments.
        watched: modules of it.
        stop_at: the one of them whose input is computed last; None computes the whole block.
    """
    found: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        found[module] = arguments[0]
        if module is stop_at:
            raise _Reached

    handles = [module.register_forward_pre_hook(keep) for module in watched]
    try:
        block.module(*call[0], **call[1])
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return found


class _Reached(Exception):  # noqa: N818 - it says what happened, and is no error
    """The module is reached whose input is wanted."""


def _arguments(model: nn.Module, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Call:
    """Returns the arguments with which a model calls a module, and computes nothing behind."""
    found: list[Call] = []

    def keep(_module: nn.Module, positional: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        found.append((positional, keywords))
        raise _Reached

    handle = module.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        model(*arguments, **named)
    except _Reached:
        pass
    finally:
        handle.remove()
    return found[0]


def _followers(model: nn.Module, blocks: Sequence[TransformerBlock], images: Tensor) -> dict[str, str]:
    """Returns the name of a block to that of the one that reads its output, with the same other arguments."""
    calls: dict[str, Call] = {}
    outputs: dict[str, Any] = {}

    def before(name: str) -> Callable[..., None]:
        return lambda _module, arguments, named: calls.__setitem__(name, (arguments, named))

    def after(name: str) -> Callable[..., None]:
        return lambda _module, _arguments, output: outputs.__setitem__(name, output)

    handles = []
    for block in blocks:
        handles.append(block.module.register_forward_pre_hook(before(block.name), with_kwargs=True))
        handles.append(block.module.register_forward_hook(after(block.name)))
    try:
        model(images[:1])
    finally:
        for handle in handles:
            handle.remove()
    pairs = pairwise(blocks)
    return {one.name: two.name for one, two in pairs if _reads(calls[two.name], outputs[one.name], calls[one.name])}


def _reads(call: Call, output: Any, before: Call) -> bool:
    (first, *others), named = call
    (_, *others_before), named_before = before
    alike = len(others) == len(others_before) and named.keys() == named_before.keys()
    return (
        first is output
        and alike
        and all(one is two for one, two in zip(others, others_before, strict=True))
        and all(named[name] is named_before[name] for name in named)
    )


def _bytes(call: Call) -> int:
    values = (*call[0], *call[1].values())
    return sum(value.untyped_storage().nbytes() for value in values if isinstance(value, Tensor))
