# SPDX-License-Identifier: Apache-2.0
"""One pass of the float program over the calibration images, for what every layer reads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from vitedge.calibration.observations import Stats
from vitedge.program.execution import Execution
from vitedge.program.structure import Layer, Structure
from vitedge.quantization.weights.rows import Window, convolution_rows, linear_rows
from vitedge.quantization.weights.statistics import InputStatistics

BATCH = 8
"""Images of one pass of the program: enough for speed, little enough for the memory of a ViT-L."""
_MOMENT_BYTES = 2**30
"""What the second moments of the layers of one pass may take."""


def readings(structure: Structure) -> dict[Node, tuple[Layer, ...]]:
    """Every value that layers read, with those layers, in order of execution."""
    found: dict[Node, tuple[Layer, ...]] = {}
    for layer in structure.layers:
        found[layer.input] = (*found.get(layer.input, ()), layer)
    return found


def identify(structure: Structure) -> dict[str, str]:
    """What decides, besides the images, what `watcher` sees: the program, its weights and how they are computed."""
    exported = structure.program.exported
    digest = hashlib.sha256(str(exported.graph).encode())
    for name, tensor in sorted(exported.state_dict.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().view(-1).numpy().tobytes())
    return {"program": digest.hexdigest(), "batch": str(BATCH), "torch": torch.__version__}


def watcher(structure: Structure) -> Callable[[Tensor, dict[str, Stats]], None]:
    """The step of a calibration: runs a batch and adds what layers read to the statistics of that name.

    Layers that read the same value have one entry, under the name of the first; it is made at the first batch.
    """
    entries = {node: layers[0] for node, layers in readings(structure).items()}

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
    """The second moments of what layers read, for a rounding of weights that makes up for its own errors.

    They come group by group, as many as fit into memory together; the program runs once for each group.

    Args:
        structure: of the float program.
        layers: those that are wanted.
        images: float32, normalized.
        rounded: what a layer reads, as it will be rounded.
    """
    for group in _groups(structure, layers):
        found = {layer.name: _empty(structure, layer) for layer in group}
        watches = {}
        for node, reading in readings(structure).items():
            wanted = [layer for layer in reading if layer in group]
            if wanted:
                watches[node.name] = partial(_add, found, wanted, rounded)
        for start in range(0, len(images), BATCH):
            Execution(structure.program.exported, watches)(images[start : start + BATCH])
        for layer in group:
            yield layer, found.pop(layer.name)


def _groups(structure: Structure, layers: tuple[Layer, ...]) -> Iterator[list[Layer]]:
    """Layers whose moments are held at the same time while images pass; a pass is cheaper than memory."""
    group: list[Layer] = []
    held = 0
    for layer in layers:
        size = 8 * layer.groups * structure.editor.value(layer.weight)[0].numel() ** 2
        if group and held + size > _MOMENT_BYTES:
            yield group
            group, held = [], 0
        group.append(layer)
        held += size
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
    """What a layer reads, as the rows of its product: ``(groups, rows, elements)``."""
    if layer.kind == "linear":
        return linear_rows(value)
    arguments: Any = (*layer.node.args, *([1, 1], [0, 0], [1, 1], 1)[len(layer.node.args) - 3 :])
    kernel = tuple(layer.node.args[1].meta["val"].shape[2:])  # type: ignore[union-attr]
    stride, padding, dilation = (_pair(part) for part in arguments[3:6])
    return convolution_rows(value, Window((int(kernel[0]), int(kernel[1])), stride, padding, dilation, layer.groups))


def _pair(part: Any) -> tuple[int, int]:
    return (int(part[0]), int(part[-1]))
