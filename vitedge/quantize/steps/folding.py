# SPDX-License-Identifier: Apache-2.0
"""Gains of residual branches taken into the layer before them: LayerScale costs nothing at run time.

``g (W x + b) = (diag(g) W) x + g b`` (arXiv:2103.17239, section 2). A weight with a scale for every output channel is
rounded to the same integers before and after.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.fx import Node

from vitedge.calibration.observations import Stats
from vitedge.quantize.graph import Editor, aten
from vitedge.quantize.steps.judging import Precision, StepRecord, decibels, layer_noise
from vitedge.quantize.structure import Layer, Structure
from vitedge.quantize.tracing import readers


def apply(structure: Structure, inputs: dict[str, Stats], precision: Precision) -> tuple[StepRecord, ...]:
    """Folds every product of a Linear's output and a constant vector into the Linear; the nodes go.

    Args:
        structure: of a canonical program, whose graph is changed.
        inputs: layer to the observations of its input; these stay as they are.
        precision: what the program is prepared for.
    """
    editor = structure.editor
    records = []
    for layer in structure.layers:
        product, gain = _gain(editor, layer)
        if product is None or gain is None:
            continue
        weight, bias = editor.value(layer.weight), editor.value(layer.bias)
        factor = gain.double().flatten()
        editor.set(layer.weight, (weight.double() * factor[:, None]).to(weight.dtype))
        editor.set(layer.bias, (bias.double() * factor).to(bias.dtype))
        editor.replace(product, layer.node)
        records.append(_record(layer, weight, inputs, precision))
    if records:
        editor.finish()
    return tuple(records)


def _gain(editor: Editor, layer: Layer) -> tuple[Node | None, Tensor | None]:
    """The product that alone reads a Linear's output, and the vector by which it multiplies every channel."""
    reading = readers(layer.node) or []
    product = reading[0][0] if len(reading) == 1 and reading[0][1] is layer.node else None
    if layer.kind != "linear" or product is None or product.target is not aten.mul.Tensor:
        return None, None
    gain = next((editor.tensor(part) for part in product.args if part is not layer.node), None)
    channels = editor.value(layer.bias).numel()
    if gain is None or gain.numel() != channels or gain.shape[-1] != channels:
        return None, None
    return product, gain


def _record(layer: Layer, weight: Tensor, inputs: dict[str, Stats], precision: Precision) -> StepRecord:
    noise = layer_noise(weight, inputs[layer.name], precision) if layer.name in inputs else None
    # Scales of output channels follow the gain exactly, so that the noise of each channel relative to it stays.
    ratio = math.nan if noise is None else decibels(noise)
    return StepRecord("folding", layer.name, "folded", ratio, ratio)
