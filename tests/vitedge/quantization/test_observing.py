# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.export import tiny
from tests.vitedge.quantization import small_models as small
from vitedge.calibration.observations import Stats
from vitedge.program.canonical import canonicalize
from vitedge.program.structure import Layer, Structure, find_structure
from vitedge.quantization import observing
from vitedge.quantization.observing import PART, identify, input_consumers, measure_moments, rows, watcher

IMAGES = tiny.images(11)  # more than a batch
MODULE: Any = small.built(small.Mixture)


@pytest.fixture(scope="module")
def structure() -> Structure:
    return find_structure(canonicalize(small.captured(small.Mixture)))


def hidden() -> Tensor:
    with torch.no_grad():
        return functional.gelu(MODULE.conv(IMAGES)).flatten(2).transpose(1, 2)


def test_layers_that_read_one_value_are_one_reading(structure: Structure) -> None:
    named = [tuple(layer.name for layer in layers) for layers in input_consumers(structure).values()]
    assert named == [("conv",), ("left", "right"), ("head",)]


def test_a_step_sees_what_layers_read_channel_by_channel(structure: Structure) -> None:
    stats: dict[str, Stats] = {}
    step = watcher(structure)
    for part in IMAGES.split(4):
        step(part, stats)
    assert list(stats) == ["conv", "left", "head"]
    assert torch.equal(stats["conv"].minimum, IMAGES.amin((0, 2, 3)))
    assert torch.allclose(stats["left"].maximum, hidden().amax((0, 1)), atol=1e-6)
    assert torch.allclose(stats["left"].mean.float(), hidden().mean((0, 1)), atol=1e-6)
    assert (stats["left"].count, stats["conv"].count, stats["head"].count) == (11 * 16, 11 * 32 * 32, 11)


def test_what_is_observed_is_known_by_the_program_and_its_weights(structure: Structure) -> None:
    same = find_structure(canonicalize(small.captured(small.Mixture)))
    assert identify(same) == identify(structure)
    same.editor.set("left.weight", same.editor.value("left.weight") + 1e-6)
    assert identify(same)["program"] != identify(structure)["program"]
    other = find_structure(canonicalize(small.captured(small.Heads, fused=True)))
    assert identify(other)["program"] != identify(structure)["program"]


@pytest.mark.parametrize("limit", [2**30, 1])
def test_moments_are_sums_over_all_rows_in_one_group_or_in_several(
    limit: int, structure: Structure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observing, "_MOMENT_BYTES", limit)
    wanted = tuple(layer for layer in structure.layers if layer.name != "left")
    seen: list[str] = []

    def halved(layer: Layer, value: Tensor) -> Tensor:
        seen.append(layer.name)
        return value / 2

    found = {layer.name: inputs for layer, inputs in measure_moments(structure, wanted, IMAGES, halved)}
    assert list(found) == ["conv", "right", "head"]
    flat = hidden().flatten(0, 1).double() / 2
    assert torch.allclose(found["right"].moment[0], flat.T @ flat, rtol=1e-5, atol=1e-5)
    assert torch.allclose(found["right"].total[0], flat.sum(0), rtol=1e-5, atol=1e-5)
    assert (found["right"].count, found["conv"].count) == (11 * 16, 11 * 16)
    passes = math.ceil(11 / PART)
    together, apart = ["conv", "right", "head"] * passes, [name for name in found for _ in range(passes)]
    assert seen == (together if limit > 1 else apart)


@pytest.mark.parametrize("name", ["mobilevit", "pit"])
def test_rows_times_a_weight_are_the_output_of_the_layer(name: str) -> None:
    structure = find_structure(canonicalize(tiny.program(name, "dynamic")[1]))
    values: dict[str, Tensor] = {}
    watches = {
        node.name: (lambda value, key=node.name: values.update({key: value})) for node in structure.editor.calls()
    }
    observing.Execution(structure.program.exported, watches)(tiny.images(2))
    values[structure.editor.image().name] = tiny.images(2)
    for layer in structure.layers:
        weight = structure.editor.value(layer.weight)
        weight = weight.reshape(layer.groups, weight.shape[0] // layer.groups, -1)
        products = torch.einsum("gre,goe->rgo", rows(layer, values[layer.input.name]), weight).flatten(1)
        expected = values[layer.node.name].movedim(layer.channel_axis, -1).flatten(0, -2)
        assert torch.allclose(products + structure.editor.value(layer.bias), expected, atol=1e-4), layer.name
