# SPDX-License-Identifier: Apache-2.0
"""What the calibration images show of a model: which rows of a layer's output matter, and moments of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from vitedge.pruning.draft import Batches
from vitedge.pruning.parts import Part

FLOOR = 1e-3
"""Least weight of a row, relative to the mean of all: rows without influence still settle what no other row does."""
_CHANNEL_FLOOR = 1e-2
"""Added to the weight of every channel, relative to the mean of all."""

_LEAST_PULL = 1e-7
"""Pull that is tried where none was asked for, relative to the mean of the diagonal."""
_PULLS = 12


def as_rows(values: Tensor, images: int, part: Part) -> Tensor:
    """Returns inputs or outputs of a part's consumer as ``(images, rows, channels)``; an image's windows are rows."""
    last = values.permute(0, 2, 3, 1) if part.is_map else values
    return last.reshape(images, -1, last.shape[-1])


@dataclass
class Moments:
    """Weighted sums of first and second order of a layer's inputs, and of these with targets; float64."""

    square: Tensor
    """``(inputs, inputs)``"""
    cross: Tensor
    """``(inputs, outputs)``"""
    sum: Tensor
    target_sum: Tensor
    target_square: float = 0.0
    weight: float = 0.0
    rows: int = 0
    images: int = 0

    @staticmethod
    def of(inputs: int, outputs: int = 0) -> Moments:
        """Returns moments of nothing yet."""
        square, cross = (
            torch.zeros(inputs, inputs, dtype=torch.float64),
            torch.zeros(inputs, outputs, dtype=torch.float64),
        )
        return Moments(square, cross, square.new_zeros(inputs), square.new_zeros(outputs))

    def add(self, inputs: Tensor, row_weights: Tensor, targets: Tensor | None = None) -> None:
        """Adds inputs ``(images, rows, inputs)`` float32 with weights ``(rows,)``, and targets of as many rows."""
        rows, weights = inputs.flatten(0, 1), row_weights.repeat(len(inputs))
        weighted = rows * weights[:, None]
        self.images += len(inputs)
        self.rows += len(rows)
        self.weight += float(weights.sum(dtype=torch.float64))
        self.square += (rows.T @ weighted).double()
        self.sum += weighted.sum(0, dtype=torch.float64)
        if targets is not None:
            flat = targets.flatten(0, 1)
            self.cross += (weighted.T @ flat).double()
            self.target_sum += (flat * weights[:, None]).sum(0, dtype=torch.float64)
            self.target_square += float((flat.double().square().sum(1) * weights).sum())

    def __add__(self, other: Moments) -> Moments:
        """Returns the moments of both together."""
        return Moments(*(getattr(self, entry.name) + getattr(other, entry.name) for entry in fields(Moments)))

    @property
    def means(self) -> tuple[Tensor, Tensor]:
        """Means of inputs and targets."""
        return self.sum / self.weight, self.target_sum / self.weight

    def about(self, mean: Tensor, target: Tensor) -> tuple[Tensor, Tensor, float]:
        """Returns the sums of products with other origins: of inputs, of inputs with targets, of targets."""
        off, target_off = self.sum - self.weight * mean, self.target_sum - self.weight * target
        square = self.square - torch.outer(mean, self.sum) - torch.outer(off, mean)
        cross = self.cross - torch.outer(mean, self.target_sum) - torch.outer(off, target)
        power = self.target_square - float((target * (self.target_sum + target_off)).sum())
        return (square + square.T) / 2, cross, power


def factored(square: Tensor, pull: float) -> Tensor:
    """Returns the lower Cholesky factor of second moments with a pull on their diagonal.

    The products are summed in float32, so where the images show few directions, or one channel is far larger than the
    others, the moments are not positive definite to the last bit: then the pull is made larger until they are.

    Args:
        square: ``(inputs, inputs)``, symmetric, float64.
        pull: added to the diagonal.
    """
    identity = torch.eye(len(square), dtype=square.dtype)
    least = float(square.diagonal().abs().mean()) * _LEAST_PULL
    for turn in range(_PULLS):
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(square + identity * pull)
        if not failed:
            return factor
        pull = max(10 * pull, least * 10**turn)
    raise ValueError("the moments hold values that are not finite")


def row_weights(
    module: nn.Module, parts: Sequence[Part], batches: Iterable[Tensor], forward: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Measures how much an error in each row of a layer's output changes the model's outputs.

    The weight of a row is the mean square of the gradient of randomly signed outputs with respect to the row, summed
    over its channels: the trace of the Gauss-Newton matrix (Martens, 2020, section 8), estimated as by Hutchinson.

    Args:
        module: the model.
        parts: whose consumers are looked at.
        batches: normalized images.
        forward: the model's outputs for a batch ``(images, …)``.

    Returns:
        Name of the part to float32 weights, one a row of an image; their mean is the error of the outputs that an error
        of one in every row makes, and none is below `FLOOR` times it.
    """
    found: dict[str, Tensor] = {}
    count = 0
    for gradients in _gradients(module, parts, batches, forward):
        for name, gradient in gradients.items():
            rows = gradient.square().sum(2).sum(0)
            found[name] = found.get(name, torch.zeros_like(rows)) + rows
        count += len(next(iter(gradients.values())))
    return {name: (rows / count).clamp_min(_least(rows / count)) for name, rows in found.items()}


def channel_weights(
    module: nn.Module, parts: Sequence[Part], batches: Iterable[Tensor], forward: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Measures how much errors in the channels of a layer's output change the model's outputs, two by two.

    It is the Gauss-Newton matrix of a row, estimated as in `row_weights` and summed over the rows.

    Args:
        module: the model.
        parts: whose consumers are looked at.
        batches: normalized images.
        forward: the model's outputs for a batch ``(images, …)``.

    Returns:
        Name of the part to a float32 matrix ``(outputs, outputs)``, positive definite; the mean of its diagonal is
        about 1.
    """
    found: dict[str, Tensor] = {}
    for gradients in _gradients(module, parts, batches, forward):
        for name, gradient in gradients.items():
            rows = gradient.flatten(0, 1)
            found[name] = found.get(name, torch.zeros(())) + rows.T @ rows
    mean = {name: max(float(matrix.diagonal().mean()), 1e-30) for name, matrix in found.items()}
    return {name: matrix / mean[name] + _CHANNEL_FLOOR * torch.eye(len(matrix)) for name, matrix in found.items()}


def _gradients(
    module: nn.Module, parts: Sequence[Part], batches: Iterable[Tensor], forward: Callable[[Tensor], Tensor]
) -> Iterator[dict[str, Tensor]]:
    """Yields for each batch the gradients of randomly signed outputs at the parts, ``(images, rows, channels)``."""
    by_name = {part.name: part for part in parts}
    generator = torch.Generator().manual_seed(0)
    for batch in batches:
        with torch.enable_grad(), _outputs(module, parts) as outputs:
            result = forward(batch.clone().requires_grad_())
            signs = torch.randint(0, 2, result.shape, generator=generator) * 2.0 - 1
            names = list(outputs)
            gradients = torch.autograd.grad((result * signs).sum(), [outputs[name] for name in names])
        pairs = zip(names, gradients, strict=True)
        yield {name: as_rows(gradient, len(batch), by_name[name]) for name, gradient in pairs}


def _least(rows: Tensor) -> float:
    return max(float(rows.mean()) * FLOOR, 1e-30)


@contextmanager
def _outputs(module: nn.Module, parts: Sequence[Part]) -> Iterator[dict[str, Tensor]]:
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: outputs.__setitem__(name, output)

    handles = [module.get_submodule(part.consumer).register_forward_hook(keep(part.name)) for part in parts]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def watching_inputs(module: nn.Module, parts: Sequence[Part]) -> Iterator[dict[str, Tensor]]:
    """Yields a dictionary that a run of the model fills: name of the part to the inputs of the layer behind it."""
    inputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda _module, args: inputs.__setitem__(name, args[0])

    handles = [module.get_submodule(part.consumer).register_forward_pre_hook(keep(part.name)) for part in parts]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def input_moments(
    module: nn.Module, parts: Sequence[Part], batches: Batches, weights: dict[str, Tensor]
) -> dict[str, Moments]:
    """Returns the moments of the inputs of all parts' consumers, by name of the part."""
    found = {part.name: Moments.of(part.units * part.width) for part in parts}
    for batch in batches:
        with watching_inputs(module, parts) as inputs:
            module(batch)
        for part in parts:
            found[part.name].add(as_rows(inputs[part.name], len(batch), part), weights[part.name])
    return found
