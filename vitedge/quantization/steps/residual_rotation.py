# SPDX-License-Identifier: Apache-2.0
"""Rotates the residual stream of a plain transformer, which spreads its outlier channels over all channels.

With an orthogonal ``Q`` that keeps means, ``Q 1 = 1``, the statistics of a row stay what they were, and
``LN(x Q) = LN(x) Q`` for a LayerNorm without gain and offset. (arXiv:2404.00456 rotates behind RMSNorm, which needs no
such condition; here the LayerNorm stays one operator.) Gains and offsets go into the layers that read the norm, which
become ``W diag(g) Q``; whatever writes into the stream writes ``y Q``.

Only plain ViT and DeiT have such a stream: additions and concatenations of outputs of layers and of embeddings, read by
LayerNorms. Where a pooling, a merging of patches or a gain lies in between, the step records that and changes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from vitedge.calibration.observations import Stats
from vitedge.program.editor import Editor, aten
from vitedge.program.structure import Layer, Norm, Structure
from vitedge.program.tracing import Tracer, is_zero_padding, moved_from, readers, source_of
from vitedge.quantization.records import StepRecord
from vitedge.quantization.steps.channels import CENTRED, SCALES, choose
from vitedge.quantization.steps.norms import scalable_norms
from vitedge.quantization.steps.orthogonal import mean_preserving, rotated
from vitedge.quantization.steps.rounding_error import MARGIN_DB, Consumer, Precision, decibels

_JOINS = (aten.add.Tensor, aten.cat.default)
_CANDIDATES = (SCALES[0], SCALES[3], SCALES[5], SCALES[6], CENTRED[0], CENTRED[5], CENTRED[6])
"""Some of smoothing's candidates, by which the stream is compared with and without the rotation."""


@dataclass
class _Stream:
    """The layers and embeddings that are added to a residual stream."""

    layers: list[Layer] = field(default_factory=list)
    tensors: list[str] = field(default_factory=list)
    """Names of embeddings, channels last."""


class _NoStreamError(Exception):
    """The program has no residual stream that can be rotated; the message says why."""


def apply(
    structure: Structure, inputs: dict[str, Stats], precision: Precision, seed: int = 0
) -> tuple[StepRecord, ...]:
    """Rotates the residual stream, if the rotated one measures better after smoothing.

    Args:
        structure: of a canonical program; its tensors are replaced.
        inputs: layer to the calibration statistics of its input, updated in place. Extremes of rotated values are
            those of the sampled rows alone.
        precision: the integer types that the program is prepared for.
        seed: of the random rotation.

    Returns:
        One record; its choice is the reason where the step does not apply.
    """
    editor = structure.editor
    norms = scalable_norms(structure)
    try:
        stream = _find_stream(structure, norms)
    except _NoStreamError as reason:
        return (StepRecord("residual rotation", "", f"not applicable: {reason}", math.nan, math.nan),)
    before = _smoothed(editor, norms, inputs, precision)
    original = {name: editor.value(name) for name in _names(stream, norms)}
    observed = dict(inputs)
    width = editor.value(norms[0].weight).numel()
    _rotate(editor, stream, norms, inputs, mean_preserving(width, torch.Generator().manual_seed(seed)))
    after = _smoothed(editor, norms, inputs, precision)
    if after >= before + MARGIN_DB:
        return (StepRecord("residual rotation", norms[0].name, "rotated", before, after),)
    for name, tensor in original.items():
        editor.set(name, tensor)
    inputs.update(observed)
    return (StepRecord("residual rotation", norms[0].name, "off", before, before),)


def _names(stream: _Stream, norms: tuple[Norm, ...]) -> set[str]:
    """Returns the names of the tensors that a rotation changes."""
    layers = [*stream.layers, *(layer for norm in norms for layer in norm.readers)]
    names = {name for layer in layers for name in (layer.weight, layer.bias)}
    return names | {name for norm in norms for name in (norm.weight, norm.bias)} | set(stream.tensors)


def _smoothed(editor: Editor, norms: tuple[Norm, ...], inputs: dict[str, Stats], precision: Precision) -> float:
    """Returns the mean over the norms of their consumers' signal-to-noise ratio after smoothing, in dB."""
    noises = []
    for norm in norms:
        consumers = [Consumer(layer, columns) for layer, columns in zip(norm.readers, norm.columns, strict=True)]
        choice = choose(editor, consumers, inputs, precision, _CANDIDATES)
        if choice is not None:
            noises.append(10 ** (-choice.after_db / 10))
    return decibels(math.fsum(noises) / len(noises)) if noises else math.nan


def _rotate(editor: Editor, stream: _Stream, norms: tuple[Norm, ...], inputs: dict[str, Stats], matrix: Tensor) -> None:
    for name in stream.tensors:
        tensor = editor.value(name)
        editor.set(name, (tensor.double() @ matrix).to(tensor.dtype))
    for layer in stream.layers:
        weight, bias = editor.value(layer.weight), editor.value(layer.bias)
        editor.set(layer.weight, torch.einsum("o...,op->p...", weight.double(), matrix).to(weight.dtype))
        editor.set(layer.bias, (bias.double() @ matrix).to(bias.dtype))
    for norm in norms:
        _rotate_norm(editor, norm, inputs, matrix)


def _rotate_norm(editor: Editor, norm: Norm, inputs: dict[str, Stats], matrix: Tensor) -> None:
    """Moves gain and offset of a norm into the layers that read it, and rotates the channels that these read."""
    gain, offset = editor.value(norm.weight).double(), editor.value(norm.bias).double()
    for layer in norm.readers:
        weight, bias = editor.value(layer.weight), editor.value(layer.bias)
        wide = weight.double()
        editor.set(layer.bias, (bias.double() + wide @ offset).to(bias.dtype))
        editor.set(layer.weight, ((wide * gain) @ matrix).to(weight.dtype))
        if layer.name in inputs:
            inputs[layer.name] = rotated(inputs[layer.name], matrix / gain[:, None], offset)
    ones = torch.ones_like(editor.value(norm.weight))
    editor.set(norm.weight, ones)
    editor.set(norm.bias, torch.zeros_like(ones))


def _find_stream(structure: Structure, norms: tuple[Norm, ...]) -> _Stream:
    """Finds the layers and embeddings that write into the stream that all norms read.

    Raises:
        _NoStreamError: there is not exactly one stream, or something else reads or writes it.
    """
    editor = structure.editor
    every = [node for node in editor.calls() if node.target is aten.layer_norm.default]
    if not norms or {norm.node for norm in norms} != set(every):
        raise _NoStreamError("a normalization has other readers than layers")
    for norm in norms:
        _check_norm(editor, norm)
    if len({editor.value(norm.weight).numel() for norm in norms}) != 1:
        raise _NoStreamError("the stream changes its width")
    return _Walk(structure, norms).writers()


def _check_norm(editor: Editor, norm: Norm) -> None:
    width = torch.arange(editor.value(norm.weight).numel())
    plain = all(layer.kind == "linear" for layer in norm.readers)
    if norm.padded or not plain or not all(torch.equal(columns, width) for columns in norm.columns):
        raise _NoStreamError(f"{norm.name} is not read channel by channel by Linear layers")
    if not bool((editor.value(norm.weight) != 0).all()):
        raise _NoStreamError(f"a gain of {norm.name} is zero")


class _Walk:
    """A walk from the norms up to everything that writes into the stream, and down to everything that reads it."""

    def __init__(self, structure: Structure, norms: tuple[Norm, ...]) -> None:
        self._editor = structure.editor
        self._layers = {layer.node: layer for layer in structure.layers}
        self._norms = {norm.node for norm in norms}
        self._width = self._editor.value(norms[0].weight).numel()
        self._tracer = Tracer(self._editor)
        self._stream = _Stream()
        self._seen: set[Node] = set()

    def writers(self) -> _Stream:
        """Everything that writes into the stream."""
        pending: list[Any] = [norm.args[0] for norm in self._norms]
        while pending:
            value = pending.pop()
            if not isinstance(value, Node):
                raise _NoStreamError("a number is added to the stream")
            node = source_of(value)
            if node not in self._seen:
                self._seen.add(node)
                pending.extend(self._before(node))
        return self._stream

    def _before(self, node: Node) -> list[Any]:
        """Notes a writer, or says what a join joins."""
        self._check_readers(node)
        if node in self._layers:
            self._note(self._layers[node])
            return []
        name = self._editor.name(node)
        if name is not None:
            if self._editor.value(name).shape[-1] != self._width:
                raise _NoStreamError(f"{name} is added in another arrangement")
            self._stream.tensors.append(name)
            return []
        if node.target not in _JOINS:
            raise _NoStreamError(f"{node.name} lies in the stream")
        arguments: Any = node.args
        if node.target is aten.add.Tensor:
            return list(arguments[:2])
        if arguments[1:2] in ((-1,), (len(node.meta["val"].shape) - 1,)):
            raise _NoStreamError("channels are concatenated")
        return list(arguments[0])

    def _check_readers(self, node: Node) -> None:
        """Checks that only norms and joins read a value of the stream, with its channels last and in order.

        Raises:
            _NoStreamError: they do not.
        """
        reading = readers(node)
        if reading is None:
            raise _NoStreamError("the stream is an output")
        for user, value in reading:
            if user not in self._norms and user.target not in _JOINS:
                raise _NoStreamError(f"{user.name} reads the stream")
            axis = 1 if node in self._layers and self._layers[node].kind != "linear" else -1
            if value is not node:
                columns = self._tracer.channels(node, value, (axis,), -1)
                if columns is None or not torch.equal(columns, torch.arange(self._width)):
                    raise _NoStreamError(f"{value.name} rearranges channels")
            if any(is_zero_padding(step) for step in moved_from(value)):
                raise _NoStreamError(f"{value.name} pads the stream")

    def _note(self, layer: Layer) -> None:
        if layer.groups != 1 or self._editor.value(layer.bias).numel() != self._width:
            raise _NoStreamError(f"{layer.name} writes other channels")
        self._stream.layers.append(layer)
