# SPDX-License-Identifier: Apache-2.0
"""Refits the layers of a pruned model, block by block, to what the dense model computes.

The inputs of a refitted layer are those that the pruned model has by then, and its targets are those of the dense
model plus what the residual stream before it is off by: so it makes up for the errors of the blocks before it, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from vitedge.pruning.attention import Measure, Samples, can_refit, refit_heads
from vitedge.pruning.draft import Draft
from vitedge.pruning.journal import Journal
from vitedge.pruning.observe import as_rows
from vitedge.pruning.parts import Kind, Part, channels, residual
from vitedge.pruning.repair import HELD_OUT, Halves, Refit, refit
from vitedge.pruning.stream import BlockStream, Tap

_SMALLEST_FACTOR = 1e-3
"""Layer scale, relative to its mean, below which a branch cannot make up for the stream that it is added to."""


class Refitting:
    """Walks through dense and pruned model in step.

    Args:
        draft: the pruned model; a block may be narrowed once the walk has reached it.
        parts: of the model, in order of execution.
        row_weights: name of a part to the weights of the rows of its output.
        journal: keeps what was refitted.
    """

    def __init__(self, draft: Draft, parts: Sequence[Part], row_weights: dict[str, Tensor], journal: Journal) -> None:
        blocks = list(dict.fromkeys(part.block for part in parts))
        self._draft, self._parts, self._weights, self._journal = draft, parts, row_weights, journal
        self._dense = BlockStream(draft.dense.module, draft.images, blocks)
        self._pruned = BlockStream(draft.module, draft.images, blocks)
        self._block = ""
        self._targets: dict[str, list[Tensor]] = {}

    @torch.no_grad()
    def refitted(self, part: Part, kept: Sequence[int], *, name: str | None = None) -> Refit:
        """Returns new weights of the layer behind a part of which only some units will stay; alters nothing.

        Args:
            part: the parts before it are as they will be.
            kept: indices of the units that will stay.
            name: under which the journal keeps it, where it is not the part's.
        """
        name = name or part.name
        found = self._journal.read(name)
        if found is not None:
            return Refit.of(found)
        self._enter(part.block)
        other = residual(self._draft.module, part)
        taps = [Tap(part.consumer, is_input=True), *([Tap(other[0], is_input=True)] if other else [])]
        left = channels(part, kept)
        halves = Halves(len(left), part.outputs)
        runs = zip(self._draft.images.counts, self._targets[part.name], self._pruned.tapped(taps), strict=True)
        for images, target, (inputs, *stream) in runs:
            wanted = target - _shared(stream[0], other[1], images, part) if other else target
            halves.add(as_rows(inputs, images, part)[..., left], self._weights[part.name], wanted)
        done = refit(weight_of(self._draft.module, part)[:, left], halves)
        self._journal.write(name, done.tensors())
        return done

    @torch.no_grad()
    def refit_attention(self, part: Part, channels: Tensor) -> Refit | None:
        """Refits queries, keys and values of the heads that stay, in place, and then the layer behind them once more.

        Args:
            part: narrowed and refitted.
            channels: see `channel_weights`.

        Returns:
            The last refit; None where the attention needs more than its input.
        """
        name = f"{part.block}.attn"
        attention: Any = self._draft.module.get_submodule(name)
        if not can_refit(attention):
            return None
        found = self._journal.read(f"{name}.qkv")
        if found is None:
            self._enter(part.block)
            measure = Measure(self._weights[part.name], channels)
            found = refit_heads(attention, *self._samples(part, name), measure)
            self._journal.write(f"{name}.qkv", found)
        parameters = dict(attention.named_parameters())
        for key, value in found.items():
            parameters[key].copy_(value)
        done = self.refitted(part, range(attention.num_heads), name=f"{name}.again")
        set_refit(self._draft.module, part, done)
        return done

    def _samples(self, part: Part, name: str) -> tuple[Samples, Samples]:
        """Returns the inputs and targets of attention: of most batches, and of those that are held out."""
        other = residual(self._draft.module, part)
        taps = [Tap(name, is_input=True), *([Tap(other[0], is_input=True)] if other else [])]
        batches = []
        runs = zip(self._draft.images.counts, self._targets[part.name], self._pruned.tapped(taps), strict=True)
        for images, target, (inputs, *stream) in runs:
            batches.append((inputs, target - _shared(stream[0], other[1], images, part) if other else target))
        held = batches[HELD_OUT - 1 :: HELD_OUT]
        return Samples.of([batch for number, batch in enumerate(batches, 1) if number % HELD_OUT]), Samples.of(held)

    def _enter(self, block: str) -> None:
        if block == self._block:
            return
        self._block = block
        self._targets = {}
        self._dense.advance(block)
        self._pruned.advance(block)
        dense = self._draft.dense.module
        inside = [part for part in self._parts if part.block == block]
        others = [residual(dense, part) for part in inside]
        taps = [Tap(part.consumer, is_input=False) for part in inside]
        taps += [Tap(other[0], is_input=True) for other in others if other]
        for images, values in zip(self._draft.images.counts, self._dense.tapped(taps, keep=True), strict=True):
            at = dict(zip(taps, values, strict=True))
            for part, other in zip(inside, others, strict=True):
                target = as_rows(at[Tap(part.consumer, is_input=False)], images, part)
                if other:
                    target = target + _shared(at[Tap(other[0], is_input=True)], other[1], images, part)
                self._targets.setdefault(part.name, []).append(target)


def _shared(stream: Tensor, factor: Tensor, images: int, part: Part) -> Tensor:
    """Returns the residual stream in the units of a branch that is added to it times a factor."""
    least = factor.abs().mean() * _SMALLEST_FACTOR
    return as_rows(stream, images, part) / torch.where(factor.abs() < least, torch.inf, factor)


def weight_of(module: nn.Module, part: Part) -> Tensor:
    """Returns the weight of the layer behind a part, ``(outputs, channels)``."""
    return cast("Tensor", module.get_submodule(part.consumer).weight).detach().flatten(1)


def set_refit(module: nn.Module, part: Part, done: Refit) -> None:
    """Puts refitted weights into the layer behind a part, which has its new inputs already.

    A convolution without a bias of its own gets it as the mean that the batch norm behind it takes off.
    """
    consumer: Any = module.get_submodule(part.consumer)
    with torch.no_grad():
        consumer.weight.copy_(done.weight.view_as(consumer.weight))
        if part.kind is Kind.EXPANSION:
            norm: Any = module.get_submodule(part.block).conv3_1x1.bn  # type: ignore[union-attr]
            norm.running_mean -= done.bias.to(norm.running_mean.dtype)
        else:
            consumer.bias.copy_(done.bias)


@torch.no_grad()
def refit_classifiers(draft: Draft, journal: Journal) -> None:
    """Refits the last layers to the dense model's scores, in place; an encoder has none."""
    for name in _classifiers(draft.module):
        own, dense = draft.module.get_submodule(name), draft.dense.module.get_submodule(name)
        weight = cast("Tensor", own.weight)
        found = journal.read(name)
        if found is None:
            halves = Halves(weight.shape[1], weight.shape[0])
            for batch in draft.images:
                inputs, scores = _first_input(draft.module, own, batch), _output(draft.dense.module, dense, batch)
                halves.add(inputs[:, None], torch.ones(1), scores[:, None])
            found = refit(weight, halves).tensors()
            journal.write(name, found)
        done = Refit.of(found)
        weight.copy_(done.weight)
        if own.bias is not None:
            cast("Tensor", own.bias).copy_(done.bias)


def _classifiers(module: nn.Module) -> list[str]:
    found = cast("Any", module).get_classifier()
    layers = found if isinstance(found, tuple) else (found,)
    names = {part: name for name, part in module.named_modules()}
    return [names[layer] for layer in layers if isinstance(layer, nn.Linear)]


def _first_input(model: nn.Module, layer: nn.Module, batch: Tensor) -> Tensor:
    found: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _module, args: found.append(args[0]))
    try:
        model(batch)
    finally:
        handle.remove()
    return found[0]


def _output(model: nn.Module, layer: nn.Module, batch: Tensor) -> Tensor:
    found: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _module, _args, output: found.append(output))
    try:
        model(batch)
    finally:
        handle.remove()
    return found[0]
