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

from vitedge.program.execution import Execution
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
    Execution(structure.program.exported, {layer.node.name: partial(_keep_mean, expected, layer) for layer in layers})(
        images
    )
    found: dict[str, Tensor] = {}
    Execution(quantized.exported, {layer.node.name: partial(_correct, expected, found, layer) for layer in layers})(
        images
    )
    return found


def _keep_mean(means: dict[str, Tensor], layer: Layer, output: Tensor) -> None:
    means[layer.name] = _mean(layer, output)
    advance()


def _correct(expected: dict[str, Tensor], found: dict[str, Tensor], layer: Layer, output: Tensor) -> Tensor:
    """Notes the correction and returns the output with it, which later layers read in the final program too."""
    found[layer.name] = expected[layer.name] - _mean(layer, output)
    advance()
    shape = [1] * output.dim()
    shape[layer.channel_axis] = -1
    return output + found[layer.name].reshape(shape)


def _mean(layer: Layer, output: Tensor) -> Tensor:
    """Returns the mean of every channel, ``(channels,)`` float32.

    Summed in float64 image by image: a float64 copy of all images would be the largest tensor here.
    """
    rows = output.movedim(layer.channel_axis, -1)
    parts = (rows[image : image + 1].flatten(0, -2) for image in range(len(rows)))
    total = sum((part.double().sum(dim=0) for part in parts), torch.zeros(()))
    return (total / (rows.numel() / rows.shape[-1])).float()
