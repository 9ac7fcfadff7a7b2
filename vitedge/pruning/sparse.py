# SPDX-License-Identifier: Apache-2.0
"""Sparse weights: 2:4 for sparse tensor cores, or a fraction of zeros for storage.

The blocks are taken in their order, and in each the layers: what a layer reads is computed with the sparse weights of
everything before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from vitedge.calibration.moments import InputStatistics
from vitedge.calibration.rows import Window, convolution_rows, linear_rows
from vitedge.errors import BadRecipe
from vitedge.models.blocks import TransformerBlock, transformer_blocks
from vitedge.progress import counted
from vitedge.pruning.draft import Draft
from vitedge.pruning.recipe import TWO_OF_FOUR, PruningRecipe, Selection
from vitedge.pruning.records import SparseLayer, Sparsification
from vitedge.pruning.stream import BlockStream, Tap
from vitedge.pruning.zeroing import Pattern, make_sparse

OUTPUTS = 8
"""Outputs of a layer that sparse tensor cores take are a multiple of it (NVIDIA's apex, ``asp.py``)."""
INPUTS = {"fp16": 16, "int8": 32}
"""Number type to what the inputs are a multiple of: the depth of a sparse instruction's tile (PTX ISA, ``mma.sp``)."""
_FOR_CORES = (
    "Sparse tensor cores of NVIDIA GPUs from SM 8.0 on can multiply these weights faster; processors, Apple's devices "
    "and other GPUs gain no time from them."
)
_FOR_STORAGE = "These zeros shrink what is stored sparse or compressed; no device gains time from them."


def sparsify(draft: Draft, recipe: PruningRecipe) -> Sparsification:
    """Makes the weights of the linear layers in transformer blocks sparse, in place.

    With 2:4 those layers stay dense whose shape no sparse tensor core takes. Patch embedding and head stay dense, and
    so do convolutions but those of one pixel within a block.

    Args:
        draft: the model, and the images whose activations decide what is zeroed.
        recipe: its sparsity and selection are asked for.

    Raises:
        BadRecipe: no layer can be made sparse.
    """
    if recipe.sparsity is None:
        raise BadRecipe("No sparsity was asked for: give --sparsity 2:4, or a fraction of zeros such as 0.5.")
    pattern: Pattern = TWO_OF_FOUR if recipe.sparsity == TWO_OF_FOUR else float(recipe.sparsity)
    blocks = transformer_blocks(draft.module)
    layers = {name: layer for block in blocks for name, layer in _layers(block)}
    records = {name: _record(name, layer, pattern) for name, layer in layers.items()}
    if not any(record.pattern for record in records.values()):
        reasons = sorted({record.reason for record in records.values()}) or ["there is no transformer block"]
        raise BadRecipe(f"No layer can become {pattern} sparse: {reasons[0]}; ask for --sparsity 0.5, or leave it out.")
    with torch.no_grad():
        stream = BlockStream(draft.module, draft.images, [block.name for block in blocks])
        for block in counted(blocks, unit="block"):
            stream.advance(block.name)
            for tap, names in _sources(block, stream).items():
                asked = {name: layers[name] for name in names if records[name].pattern}
                for name, error in _sparsify_layers(asked, (pattern, recipe.selection), stream, tap):
                    records[name] = replace(records[name], error=error)
    note = _FOR_CORES if pattern == TWO_OF_FOUR else _FOR_STORAGE
    found = tuple(replace(record, zeros=_zeros(layers[record.name])) for record in records.values())
    return Sparsification(str(pattern), str(recipe.selection), len(draft.images), found, note)


def tensor_cores(shape: Sequence[int]) -> tuple[tuple[str, ...], str]:
    """Returns the number types in which sparse tensor cores take a weight, and why they do not take it in all.

    Args:
        shape: ``(outputs, inputs, …)``.
    """
    outputs, inputs = shape[0], math.prod(shape[1:])
    if outputs % OUTPUTS:
        return (), f"{outputs} outputs are no multiple of {OUTPUTS}"
    fitting = tuple(dtype for dtype, multiple in INPUTS.items() if inputs % multiple == 0)
    unfit = [f"of {multiple} ({dtype})" for dtype, multiple in INPUTS.items() if dtype not in fitting]
    return fitting, f"{inputs} inputs are no multiple {' or '.join(unfit)}" if unfit else ""


def _layers(block: TransformerBlock) -> Iterator[tuple[str, nn.Module]]:
    """Yields the names and modules of the linear layers of a block; convolutions of one pixel are such."""
    for name, part in block.module.named_modules():
        is_pixel = isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1) and part.groups == 1
        if isinstance(part, nn.Linear) or is_pixel:
            yield f"{block.name}.{name}", part


def _record(name: str, layer: nn.Module, pattern: Pattern) -> SparseLayer:
    shape = tuple(cast("Tensor", layer.weight).shape)
    fitting, reason = tensor_cores(shape)
    asked = "" if pattern == TWO_OF_FOUR and not fitting else str(pattern)
    return SparseLayer(name, shape, asked, 0.0, fitting, reason)


def _sources(block: TransformerBlock, stream: BlockStream) -> dict[Tap, list[str]]:
    """Returns the values that layers of a block read, to the names of those that read the same one."""
    names = [name for name, _ in _layers(block)]
    # Attention hands its input to this layer, and BEiT's multiplies by the layer's weight without calling it.
    taps = [Tap(name.removesuffix(".qkv"), is_input=True) for name in names]
    values = next(stream.tapped(taps))
    first: dict[int, Tap] = {}
    found: dict[Tap, list[str]] = {}
    for name, tap, value in zip(names, taps, values, strict=True):
        found.setdefault(first.setdefault(id(value), tap), []).append(name)
    return found


def _sparsify_layers(
    layers: dict[str, nn.Module], how: tuple[Pattern, Selection], stream: BlockStream, tap: Tap
) -> Iterator[tuple[str, float]]:
    """Makes the weights of layers that read one value sparse, in place; yields name and relative error of each."""
    moments = _moments(stream, tap, next(iter(layers.values()))) if layers else None
    for name, layer in layers.items():
        if moments is not None:
            yield name, _sparsify_layer(layer, how, moments)


def _moments(stream: BlockStream, tap: Tap, layer: nn.Module) -> InputStatistics:
    """Returns the second moments of what a layer reads, over all images."""
    moments = InputStatistics.empty(1, int(cast("Tensor", layer.weight).shape[1]))
    for (value,) in stream.tapped([tap]):
        moments.add(convolution_rows(value, Window((1, 1))) if isinstance(layer, nn.Conv2d) else linear_rows(value))
    return moments


def _sparsify_layer(layer: nn.Module, how: tuple[Pattern, Selection], moments: InputStatistics) -> float:
    """Makes a layer's weight sparse, in place, and returns the relative error of its output."""
    pattern, selection = how
    parameter, bias = cast("Tensor", layer.weight), cast("Tensor | None", layer.bias)
    weight = parameter.detach().flatten(1).clone()
    centred = moments.centred()
    # The mean of the error goes into the bias; without update, or without a bias, it stays.
    corrects = selection is Selection.SPARSEGPT and bias is not None
    sparse = make_sparse(weight, pattern, selection, centred if corrects else moments)
    if corrects:
        change = (weight - sparse).to(torch.float64) @ (moments.total[0] / max(moments.count, 1))
        cast("Tensor", bias).copy_(cast("Tensor", bias) + change)
    parameter.copy_(sparse.reshape(parameter.shape))
    noise = float((centred if corrects else moments).errors(weight, sparse).sum())
    wide = weight.to(torch.float64)
    signal = float((wide @ centred.moment[0] * wide).sum())
    return math.sqrt(noise / signal) if signal > 0 else 0.0


def _zeros(layer: nn.Module) -> float:
    weight = cast("Tensor", layer.weight)
    return float((weight == 0).sum()) / weight.numel()
