# SPDX-License-Identifier: Apache-2.0
"""A budget for one quantization: what each part costs and is worth is measured, and the plan changed accordingly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitedge.errors import BadImages, BadRecipe, DeviceFailed, MissingBackend
from vitedge.images.preprocess import normalize
from vitedge.parity.metrics import compare
from vitedge.program.execution import Execution
from vitedge.program.program import Program
from vitedge.program.structure import Structure, find_structure
from vitedge.quantization.insert import insert
from vitedge.quantization.mixed_precision.costs import Costs, KernelTimes, measure_costs
from vitedge.quantization.mixed_precision.search import Budget, Held, Quality, Search, candidates, put_in_order
from vitedge.quantization.mixed_precision.sensitivity import (
    FLOAT,
    Exemption,
    Mixed,
    find_swaps,
    measure_gains,
    weight_of_eight_bits,
)
from vitedge.quantization.plan import Plan
from vitedge.quantization.records import FrontierPoint
from vitedge.quantization.weights.rounding import RoundedWeight

SENSITIVITY_IMAGES = 8
"""Images over which parts are measured one by one; they are put in order by it, and judged on all that were kept."""
_BATCH = 8
Scores = Callable[[NDArray[np.uint8]], NDArray[np.floating[Any]]]
"""Class scores ``(images, classes)`` of images ``(images, channels, height, width)``, 0 to 255."""
CountTop1 = Callable[[Scores], tuple[int, int]]
"""Counts how many labelled images are classified correctly, and how many there are."""


@dataclass(frozen=True)
class Material:
    """What a budget is spent on."""

    structure: Structure
    """Of the float program, with everything that was done to the quantized one but rounding."""
    plan: Plan
    """Everything quantized."""
    schemes: Mapping[str, str]
    """Layer, and attention whose products are quantized, to its scheme."""
    fixed: frozenset[str]
    """Parts that stay what the user asked for."""
    images: Tensor
    """``(images, channels, height, width)``, float32, normalized."""
    capture: Callable[[int | str], Program]
    """Makes the canonical float program of the reference at a batch."""
    kernel_times: KernelTimes | None = None
    """Measures what parts cost; without it gains alone decide."""
    count_top1: CountTop1 | None = None
    """Top-1 on labelled images; None where no budget asks for it."""
    progress: Callable[[str], None] = lambda _text: None


@dataclass(frozen=True)
class Spent:
    """What came of it."""

    held: Held = field(default_factory=Held)
    shares: Mapping[str, float] = field(default_factory=dict)
    """Part to its own error's power over that of everything quantized."""
    notes: tuple[str, ...] = ()

    def reasons(self) -> Iterator[tuple[str, str, str]]:
        """Every part that is given back, what it becomes, and why."""
        for one in self.held.given:
            share = self.shares.get(one.part, 0.0)
            yield one.part, one.scheme, f"given back by the budget: {share:.1%} of the noise"


def spend(material: Material, budget: Budget) -> Spent:
    """Finds what has to be given back; nothing is altered.

    Raises:
        BadImages: the images tell nothing apart, or more than 5 % of the labelled ones cannot be read.
    """
    quantized = material.capture("dynamic")
    structure = find_structure(quantized)
    exemptions = candidates(material.schemes, material.fixed)
    swaps = find_swaps(material.structure, structure, exemptions)
    mixed = Mixed(insert(quantized, material.plan), swaps)
    bench = _Bench(material, mixed, quantized)
    start = bench.judge(())
    if budget.is_met(start):
        return Spent(Held(frontier=(FrontierPoint((), start.sqnr_db, start.top1),)))
    material.progress(f"measuring what each of {len(material.schemes)} parts costs …")
    few = material.images[:SENSITIVITY_IMAGES]
    gains = measure_gains(mixed, bench.expected[: len(few)], few)
    costs, notes = _costs(material, exemptions)
    row = put_in_order(gains, costs)
    held = Search(budget, row, gains, costs, bench.judge).run(start)
    whole = 10 ** (-start.sqnr_db / 10)
    shares = {one.part: gain / whole for one, gain in gains.items() if one.scheme == FLOAT}
    return Spent(held, shares, notes)


def give_back(
    plan: Plan, structure: Structure, exemptions: Sequence[Exemption], roundings: dict[str, RoundedWeight] | None = None
) -> None:
    """Takes exemptions into a plan.

    Args:
        plan: is altered.
        structure: of the float program that the plan belongs to.
        exemptions: a part at most once.
        roundings: of the layers; is altered with the plan.
    """
    rounded = {} if roundings is None else roundings
    layers = {layer.name: layer for layer in structure.layers}
    for one in exemptions:
        layer = layers.get(one.part)
        if layer is None:
            plan.attention.pop(one.part)
            continue
        # What was taken off the bias made up for a rounding that is not done any more.
        rounded.pop(one.part, None)
        plan.tensors[layer.bias] = structure.editor.value(layer.bias)
        if one.scheme == FLOAT:
            plan.weights.pop(one.part)
            plan.inputs.pop(one.part, None)
            plan.dynamic.discard(one.part)
        else:
            rounding = weight_of_eight_bits(structure.editor.value(layer.weight))
            plan.weights[one.part] = (rounding.integers, rounding.qparams)
            rounded[one.part] = rounding


def _costs(material: Material, exemptions: Sequence[Exemption]) -> tuple[Costs | None, tuple[str, ...]]:
    """What the exemptions cost, or why that is not known."""
    if material.kernel_times is None:
        return None, ()
    material.progress("measuring what each part costs in ONNX Runtime …")

    def planned(given: Sequence[Exemption]) -> Program:
        plan = copied(material.plan)
        give_back(plan, material.structure, given)
        return insert(material.capture(1), plan)

    levels: dict[str, list[Exemption]] = {}
    for one in exemptions:
        levels.setdefault(one.scheme, []).append(one)
    makers = {scheme: _later(planned, given) for scheme, given in levels.items()}
    try:
        return measure_costs(planned(()), makers, material.schemes, material.kernel_times), ()
    except (BadRecipe, DeviceFailed, MissingBackend) as error:
        return None, (f"precision is given back by what it gains alone, because its cost cannot be measured: {error}",)


def _later(make: Callable[[Sequence[Exemption]], Program], given: Sequence[Exemption]) -> Callable[[], Program]:
    return lambda: make(given)


def copied(plan: Plan) -> Plan:
    """A plan of its own with the same tensors."""
    return replace(
        plan,
        tensors=dict(plan.tensors),
        weights=dict(plan.weights),
        inputs=dict(plan.inputs),
        dynamic=set(plan.dynamic),
        attention=dict(plan.attention),
    )


class _Bench:
    """Judges programs by the float program, which runs once."""

    def __init__(self, material: Material, mixed: Mixed, program: Program) -> None:
        self.output = program.outputs[0].name
        self._material, self._mixed, self._program = material, mixed, program
        self._plain = Execution(material.structure.program.exported)
        self.expected = self._outputs(lambda batch: self._plain(batch)[0])
        self._right: int | None = None

    def judge(self, given: Sequence[Exemption]) -> Quality:
        """The quality of the program with exemptions.

        Raises:
            BadImages: the float program does not tell the images apart.
        """
        found = self._outputs(lambda batch: self._mixed.outputs(batch, given))
        (parity,) = compare({self.output: self.expected.numpy()}, {self.output: found.numpy()})
        if parity.degenerate:
            raise BadImages(f"No budget can be measured on these calibration images: {parity.degenerate}.")
        self._material.progress(f"{len(given)} parts given back: {parity.centred_sqnr_db:.1f} dB")
        if self._material.count_top1 is None:
            return Quality(parity.centred_sqnr_db)
        if self._right is None:
            self._right, _ = self._material.count_top1(self._scores(lambda batch: self._plain(batch)[0]))
        right, total = self._material.count_top1(self._scores(lambda batch: self._mixed.outputs(batch, given)))
        return Quality(parity.centred_sqnr_db, right / total, 100 * (self._right - right) / total)

    def _outputs(self, run: Callable[[Tensor], Tensor]) -> Tensor:
        images = self._material.images
        return torch.cat([run(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)])

    def _scores(self, run: Callable[[Tensor], Tensor]) -> Scores:
        """The same for images as they are labelled, not normalized yet."""
        preprocessing = self._program.spec.preprocessing
        return lambda pixels: run(torch.from_numpy(normalize(pixels, preprocessing))).numpy()
