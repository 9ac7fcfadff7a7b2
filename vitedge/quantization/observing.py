# SPDX-License-Identifier: Apache-2.0
"""Passes of the float program over the calibration images, which collect statistics of layers' inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.fx import Node

from vitedge.calibration.moments import InputStatistics
from vitedge.calibration.observations import Stats
from vitedge.calibration.rows import Window, convolution_rows, linear_rows
from vitedge.program.execution import Execution
from vitedge.program.structure import Layer, Structure
from vitedge.progress import counted

BATCH = 8
"""Images of one pass of the program: enough for speed, few enough for the memory of a ViT-L."""
_MOMENT_BYTES = 2**30
"""Largest size in bytes of the second moments that one pass collects."""


def input_consumers(structure: Structure) -> dict[Node, tuple[Layer, ...]]:
    """Returns every value that layers read, to those layers, in order of execution."""
    found: dict[Node, tuple[Layer, ...]] = {}
    for layer in structure.layers:
        found[layer.input] = (*found.get(layer.input, ()), layer)
    return found


def identify(structure: Structure) -> dict[str, str]:
    """Returns the parts of a cache key that decide `watcher`'s statistics besides the images.

    Those are the program, its weights, the batch and the version of PyTorch.
    """
    exported = structure.program.exported
    digest = hashlib.sha256(str(exported.graph).encode())
    for name, tensor in sorted(exported.state_dict.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().view(-1).numpy().tobytes())
    return {"program": digest.hexdigest(), "batch": str(BATCH), "torch": torch.__version__}


def outputs_of(run: Callable[[Tensor], Tensor | tuple[Tensor, ...]], images: Tensor) -> list[npt.NDArray[np.float32]]:
    """Returns every output of a model or program for all images, ``(images, …)`` each.

    Args:
        run: takes a batch.
        images: ``(images, channels, height, width)``, as ``run`` takes them.
    """
    results = (run(images[start : start + BATCH]) for start in counted(range(0, len(images), BATCH), unit="batch"))
    parts = [(result,) if isinstance(result, Tensor) else result for result in results]
    return [torch.cat(part).numpy() for part in zip(*parts, strict=True)]


def watcher(structure: Structure) -> Callable[[Tensor, dict[str, Stats]], None]:
    """Returns the step of a calibration: it runs a batch and adds layers' inputs to the statistics under their names.

    Layers that read the same value have one entry, under the name of the first; it is made at the first batch.

    Args:
        structure: of the float program.

    Returns:
        A function of images ``(images, channels, height, width)``, float32, normalized, and of the statistics, which
        it updates.
    """
    entries = {node: layers[0] for node, layers in input_consumers(structure).items()}

    def step(images: Tensor, stats: dict[str, Stats]) -> None:
        watches = {
            node.name: partial(_see, stats.setdefault(layer.name, Stats()), layer.channel_axis)
            for node, layer in entries.items()
        }
        Execution(structure.program.exported, watches)(images)

    return step


def _see(stats: Stats, channel_axis: int, value: Tensor) -> None:
    stats.update(value, channel_axis)


def measure_moments(
    structure: Structure, layers: tuple[Layer, ...], images: Tensor, rounded: Callable[[Layer, Tensor], Tensor]
) -> Iterator[tuple[Layer, InputStatistics]]:
    """Yields layers with the second moments of their inputs, by which GPTQ and AdaRound round weights.

    They come in groups, as many as fit into memory together; the program runs once for each group.

    Args:
        structure: of the float program.
        layers: the layers to measure.
        images: ``(images, channels, height, width)``, float32, normalized.
        rounded: rounds a layer's input as the quantized program will.
    """
    for group in _groups(structure, layers):
        found = {layer.name: _empty(structure, layer) for layer in group}
        watches = {}
        for node, consumers in input_consumers(structure).items():
            measured = [layer for layer in consumers if layer in group]
            if measured:
                watches[node.name] = partial(_add, found, measured, rounded)
        for start in range(0, len(images), BATCH):
            Execution(structure.program.exported, watches)(images[start : start + BATCH])
        for layer in group:
            yield layer, found.pop(layer.name)


def _groups(structure: Structure, layers: tuple[Layer, ...]) -> Iterator[list[Layer]]:
    """Yields the layers that are measured in one pass: as many as `_MOMENT_BYTES` allows."""
    group: list[Layer] = []
    taken = 0
    for layer in layers:
        size = 8 * layer.groups * structure.editor.value(layer.weight)[0].numel() ** 2
        if group and taken + size > _MOMENT_BYTES:
            yield group
            group, taken = [], 0
        group.append(layer)
        taken += size
    if group:
        yield group


def _empty(structure: Structure, layer: Layer) -> InputStatistics:
    return InputStatistics.empty(layer.groups, structure.editor.value(layer.weight)[0].numel())


def _add(
    found: Mapping[str, InputStatistics],
    layers: list[Layer],
    rounded: Callable[[Layer, Tensor], Tensor],
    value: Tensor,
) -> None:
    for layer in layers:
        found[layer.name].add(rows(layer, rounded(layer, value)))


def rows(layer: Layer, value: Tensor) -> Tensor:
    """Reshapes a layer's input to the rows of its matrix product, ``(groups, rows, elements)``.

    Args:
        layer: a Linear or a convolution, which is unfolded.
        value: its input.
    """
    if layer.kind == "linear":
        return linear_rows(value)
    arguments: Any = (*layer.node.args, *([1, 1], [0, 0], [1, 1], 1)[len(layer.node.args) - 3 :])
    kernel = tuple(layer.node.args[1].meta["val"].shape[2:])  # type: ignore[union-attr]
    stride, padding, dilation = (_pair(part) for part in arguments[3:6])
    return convolution_rows(value, Window((int(kernel[0]), int(kernel[1])), stride, padding, dilation, layer.groups))


def _pair(part: Any) -> tuple[int, int]:
    return (int(part[0]), int(part[-1]))
