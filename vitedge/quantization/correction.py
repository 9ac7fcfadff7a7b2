# SPDX-License-Identifier: Apache-2.0
"""Bias correction: the mean error that rounding adds to a layer's output is subtracted from its bias.

``b' = b + E[y] - E[y~]`` per output channel, where ``y`` is the float program's output of the layer and ``y~`` the
quantized program's, whose earlier layers are corrected already (arXiv:1906.04721, section 4.2; the empirical form of
its appendix D). One pass of each program suffices: the correction of a layer is put in while the pass goes on.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from vitedge.program.lockstep import Lockstep
from vitedge.program.program import Program
from vitedge.program.structure import Layer, Structure
from vitedge.progress import advance, count


def measure_bias(structure: Structure, quantized: Program, names: set[str], images: Tensor) -> dict[str, Tensor]:
    """Returns the corrections to add to the biases of layers.

    Args:
        structure: of the float program.
        quantized: made by `vitedge.quantization.insert` from the same program; its nodes have the same names.
        names: the layers to correct.
        images: ``(images, channels, height, width)``, float32, normalized.

    Returns:
        Layer to ``(out,)``, float32.
    """
    layers = [layer for layer in structure.layers if layer.name in names]
    count(2 * len(layers), unit="layer")
    expected: dict[str, Tensor] = {}
    watches = {layer.node.name: partial(_keep_mean, expected, layer) for layer in layers}
    Lockstep(structure.program.exported, watches)(images)
    found: dict[str, Tensor] = {}
    corrections = {layer.node.name: partial(_correct, expected, found, layer) for layer in layers}
    Lockstep(quantized.exported, corrections)(images)
    return found


def _keep_mean(means: dict[str, Tensor], layer: Layer, output: list[Tensor]) -> None:
    means[layer.name] = _mean(layer, output)
    advance()


def _correct(expected: dict[str, Tensor], found: dict[str, Tensor], layer: Layer, output: list[Tensor]) -> list[Tensor]:
    """Notes the correction and returns the output with it, which later layers read in the final program too."""
    found[layer.name] = expected[layer.name] - _mean(layer, output)
    advance()
    shape = [1] * output[0].dim()
    shape[layer.channel_axis] = -1
    return [part + found[layer.name].reshape(shape) for part in output]


def _mean(layer: Layer, output: list[Tensor]) -> Tensor:
    """Returns the mean of every channel, ``(channels,)`` float32.

    Summed in float32 over an image's positions and in float64 over the images: the sum is the same for parts of any
    size.
    """
    rows = [part.movedim(layer.channel_axis, -1) for part in output]
    total = sum(
        (part.reshape(len(part), -1, part.shape[-1]).sum(1).double().sum(0) for part in rows),
        torch.zeros((), dtype=torch.float64),
    )
    count = sum(part.numel() // part.shape[-1] for part in rows)
    return (total / count).float()
