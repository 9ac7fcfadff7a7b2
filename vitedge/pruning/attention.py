# SPDX-License-Identifier: Apache-2.0
"""Refits queries, keys and values of the heads that stay, with the layer that joins them.

Least squares at the layer behind them can only mix what these heads attend to; where most heads of a block are gone,
the others have to attend to something else. No closed form says to what: so a few steps of L-BFGS (Liu and Nocedal,
1989) bring the output of attention nearer to its target, and held-out images say when to stop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers.attention import Attention
from timm.models import beit
from torch import Tensor, nn

from vitedge.models.blocks import NarrowAttention

STEPS = 20
"""Steps at most; each computes the outputs and gradients of all images once, and now and then twice."""
_STRIDE = 5
"""Steps between two looks at the held-out images."""
_PATIENCE = 2
"""Looks without a better result after which it ends."""
_DAMPING = 1e-2
"""Added to the second moments that steps are scaled by, relative to the mean of their diagonal."""
_KINDS = (Attention, beit.Attention, NarrowAttention)


@dataclass(frozen=True)
class Samples:
    """What attention reads, and what it should give."""

    inputs: Tensor
    """``(sequences, tokens, width)``"""
    targets: Tensor
    """``(images, rows, outputs)``"""

    @staticmethod
    def of(batches: Sequence[tuple[Tensor, Tensor]]) -> Samples:
        """Returns batches of inputs and targets together."""
        inputs, targets = zip(*batches, strict=True)
        return Samples(torch.cat(inputs), torch.cat(targets))


@dataclass(frozen=True)
class Measure:
    """How much errors of attention's output matter to the outputs of the model."""

    rows: Tensor
    """Weights of the rows of an image."""
    channels: Tensor
    """Weights of products of two channels, ``(outputs, outputs)``, positive definite."""

    def __call__(self, errors: Tensor) -> Tensor:
        """Returns the weighted mean square of errors ``(images, rows, outputs)``."""
        squares = (errors @ torch.linalg.cholesky(self.channels)).square().mean(2)
        weighted: Tensor = (squares * self.rows).sum() / (self.rows.sum() * len(errors))
        return weighted


@dataclass(frozen=True)
class _Direction:
    """A parameter, and the scale of its steps: one along each direction changes what its layer gives by about as much.

    Without it the largest directions of the inputs would take up all steps.
    """

    name: str
    start: Tensor
    scale: float
    root: Tensor | None
    """Inverse square root of the second moments of the layer's inputs; None for a bias."""

    def moved(self, by: Tensor) -> Tensor:
        """Returns the parameter after steps."""
        return self.start + self.scale * (by if self.root is None else by @ self.root)


def can_refit(attention: nn.Module) -> bool:
    """Returns whether a module computes its output from its input alone; windows and merged tokens need more."""
    return type(attention) in _KINDS


def refit_heads(attention: nn.Module, fitted: Samples, held: Samples, measure: Measure) -> dict[str, Tensor]:
    """Returns new parameters of attention whose output is nearer to the targets; alters nothing.

    Args:
        attention: with the heads that stay, and the layer behind them refitted.
        fitted: what the steps are taken on.
        held: what says after which of them the result is best; it may be the start.
        measure: of errors.
    """
    directions = _directions(attention, fitted)
    steps = [torch.zeros_like(each.start).requires_grad_() for each in directions]
    power = float(measure(fitted.targets - fitted.targets.mean((0, 1)))) + 1e-30

    def error(samples: Samples) -> Tensor:
        moved = {each.name: each.moved(step) for each, step in zip(directions, steps, strict=True)}
        output: Tensor = torch.func.functional_call(attention, moved, (samples.inputs,))
        return measure(output.reshape(samples.targets.shape) - samples.targets) / power

    def closure() -> float:
        with torch.enable_grad():
            value = error(fitted)
            for step, gradient in zip(steps, torch.autograd.grad(value, steps), strict=True):
                step.grad = gradient
        return value.item()

    optimizer = torch.optim.LBFGS(steps, max_iter=_STRIDE, history_size=STEPS, line_search_fn="strong_wolfe")
    best, least, looks = [step.detach().clone() for step in steps], _held(error, held), 0
    for _ in range(STEPS // _STRIDE):
        optimizer.step(closure)  # type: ignore[no-untyped-call]
        found = _held(error, held)
        if found < least:
            best, least, looks = [step.detach().clone() for step in steps], found, 0
            continue
        looks += 1
        if looks == _PATIENCE:
            break
    return {each.name: each.moved(step) for each, step in zip(directions, best, strict=True)}


def _held(error: Any, samples: Samples) -> float:
    with torch.no_grad():
        return float(error(samples))


@torch.no_grad()
def _directions(attention: nn.Module, samples: Samples) -> list[_Direction]:
    """Returns the parameters of the projections; norms of queries and tables of positions stay."""
    layers: Any = attention
    joined: list[Tensor] = []
    handle = layers.proj.register_forward_pre_hook(lambda _module, args: joined.append(args[0]))
    try:
        attention(samples.inputs)
    finally:
        handle.remove()
    found: list[_Direction] = []
    named: Mapping[str, nn.Parameter] = dict(attention.named_parameters())
    for layer, inputs, biases in (
        ("qkv", samples.inputs, ("qkv.bias", "q_bias", "v_bias")),
        ("proj", joined[0], ("proj.bias",)),
    ):
        weight = named[f"{layer}.weight"].detach()
        rows = inputs.flatten(0, 1).double()
        moments = rows.T @ rows / len(rows)
        values, vectors = torch.linalg.eigh(moments)
        damped = values.clamp_min(0) + _DAMPING * float(values.mean()) + 1e-30
        root = (vectors * damped.rsqrt()) @ vectors.T
        scale = float(((weight.double() @ moments) * weight).sum(1).mean().clamp_min(0).sqrt())
        found.append(_Direction(f"{layer}.weight", weight, scale, root.float()))
        found += [_Direction(name, named[name].detach(), scale, None) for name in biases if name in named]
    return found
