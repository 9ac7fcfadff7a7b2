# SPDX-License-Identifier: Apache-2.0
"""Canonical programs of tiny models in float64, what they read, and what they compute."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Interpreter, Node

from tests.export import tiny
from vitedge.calibration.observations import Stats
from vitedge.program.canonical import canonicalize
from vitedge.program.capture import capture
from vitedge.program.program import Program
from vitedge.program.structure import Structure, find_structure
from vitedge.quantization.activation import parameters_over
from vitedge.quantization.insert import insert
from vitedge.quantization.parameters import dequantize, quantize
from vitedge.quantization.plan import Plan
from vitedge.quantization.records import StepRecord
from vitedge.quantization.steps.norms import scalable_norms
from vitedge.quantization.steps.rounding_error import Precision
from vitedge.quantization.weights.parameters import choose_parameters

NAMES = tiny.NAMES
OUTLIER = 32.0


@cache
def _captured(name: str) -> Program:
    return canonicalize(capture(tiny.model(name), tiny.spec(name), tiny.BLOCKS[name], batch="dynamic"))


def structure_of(name: str) -> Structure:
    """Returns the structure of a copy of a tiny model's canonical program."""
    return find_structure(copy.deepcopy(_captured(name)))


def structure_of_module(module: nn.Module, part: str) -> Structure:
    """Returns the structure of a module's canonical program, for images of `tiny.SIZE`."""
    return find_structure(canonicalize(capture(module.eval(), tiny.spec("vit"), (part,), batch="dynamic")))


def doubled(structure: Structure) -> Structure:
    """The same with its tensors in float64."""
    editor = structure.editor
    names = {editor.name(node) for node in structure.program.exported.graph.nodes if node.op == "placeholder"} - {None}
    for name in names:
        tensor = editor.value(str(name))
        if tensor.is_floating_point():
            editor.set(str(name), tensor.double())
    return structure


def computed(program: Program, images: Tensor) -> Tensor:
    logits: Tensor = _run(Interpreter(program.exported.graph_module), program, images)
    return logits


def observed(structure: Structure, images: Tensor) -> dict[str, Stats]:
    """Returns layer to the statistics of its input for the images."""
    observer = _Observer(structure)
    _run(observer, structure.program, images)
    return observer.inputs


class _Observer(Interpreter):
    def __init__(self, structure: Structure) -> None:
        super().__init__(structure.program.exported.graph_module)
        self.inputs = {layer.name: Stats() for layer in structure.layers}
        self._layers = structure.layers

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        for layer in self._layers:
            if layer.input.name == n.name:
                self.inputs[layer.name].update(value, layer.channel_axis)
        return value


@torch.no_grad()
def _run(interpreter: Interpreter, program: Program, images: Tensor) -> Any:
    tensors = {**program.exported.state_dict, **program.exported.constants}
    targets = [spec.target for spec in program.exported.graph_signature.input_specs]
    (logits,) = interpreter.run(*(images if target is None else tensors[target] for target in targets))
    return logits


def shifted(structure: Structure, records: Iterable[StepRecord]) -> Structure:
    """A copy whose layers read what the records have subtracted."""
    plan = Plan(shifts={record.module: record.shift for record in records if record.shift})
    return find_structure(insert(copy.deepcopy(structure.program), plan))


def quantized_sqnr(
    structure: Structure,
    images: Tensor,
    precision: Precision,
    records: Iterable[StepRecord] = (),
    reference: Structure | None = None,
) -> float:
    """Returns the centred SQNR of the logits in dB with all layers rounded over their ranges and biases corrected."""
    inputs = observed(shifted(structure, records), images)
    plan = Plan(shifts={record.module: record.shift for record in records if record.shift})
    assert precision.activations is not None
    for layer in structure.layers:
        weight = structure.editor.value(layer.weight)
        qparams = choose_parameters(weight.flatten(1), precision.weights)
        plan.weights[layer.name] = (quantize(weight, qparams), qparams)
        error = weight - dequantize(plan.weights[layer.name][0].flatten(1), qparams).reshape(weight.shape)
        plan.tensors[layer.bias] = structure.editor.value(layer.bias) + _mean_error(
            error, inputs[layer.name], layer.groups
        )
        plan.inputs[layer.name] = parameters_over(
            inputs[layer.name].low, inputs[layer.name].high, precision.activations
        )
    result = computed(insert(copy.deepcopy(structure.program), plan), images)
    exact = computed((reference or structure).program, images)
    return tiny.centred_sqnr(result.numpy(), exact.numpy())


def _mean_error(error: Tensor, stats: Stats, groups: int) -> Tensor:
    """Returns the mean error of a layer's output that the rounding of its weight causes."""
    summed = error.flatten(2).sum(2) if error.dim() > 2 else error
    means = stats.mean.float().reshape(groups, -1)
    return torch.einsum("goc,gc->go", summed.reshape(groups, -1, summed.shape[1]), means).flatten()


def difference(structure: Structure, other: Structure, images: Tensor) -> float:
    """Returns the largest difference of the logits of two programs, relative to the largest logit."""
    return tiny.relative_error(computed(other.program, images).numpy(), computed(structure.program, images).numpy())


@torch.no_grad()
def with_outlier_channels(structure: Structure) -> Structure:
    """Scales two channels of every norm by `OUTLIER`, and the weights that read them by its reciprocal."""
    editor = structure.editor
    for norm in scalable_norms(structure):
        for name in (norm.weight, norm.bias):
            tensor = editor.value(name).clone()
            tensor[:2] *= OUTLIER
            editor.set(name, tensor)
        for layer, columns in zip(norm.readers, norm.columns, strict=True):
            weight = editor.value(layer.weight).clone()
            weight[:, columns < 2] /= OUTLIER
            editor.set(layer.weight, weight)
    return structure
