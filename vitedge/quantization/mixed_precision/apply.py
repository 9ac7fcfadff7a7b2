# SPDX-License-Identifier: Apache-2.0
"""Mixed precision for one quantization: measures what each part costs and gains, searches, and changes the plan."""

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
from vitedge.progress import counted, say, stage
from vitedge.quantization.insert import insert
from vitedge.quantization.mixed_precision.costs import Costs, KernelTimes, measure_costs
from vitedge.quantization.mixed_precision.search import Budget, Quality, Search, SearchResult, find_candidates, rank
from vitedge.quantization.mixed_precision.sensitivity import (
    FLOAT,
    Candidate,
    MixedExecution,
    find_swaps,
    measure_gains,
    weight_of_eight_bits,
)
from vitedge.quantization.plan import Plan
from vitedge.quantization.records import FrontierPoint
from vitedge.quantization.weights.rounding import RoundedWeight

SENSITIVITY_IMAGES = 8
"""Number of images over which parts are measured one by one, to rank them; programs are compared on all images."""
_BATCH = 8
"""Images of one pass."""
Scores = Callable[[NDArray[np.uint8]], NDArray[np.floating[Any]]]
"""Computes class scores ``(images, classes)`` of images ``(images, channels, height, width)``, uint8."""
CountTop1 = Callable[[Scores], tuple[int, int]]
"""Returns how many labelled images are classified correctly, and how many there are."""


@dataclass(frozen=True)
class SearchInputs:
    """A quantized program and its reference, for a mixed-precision search."""

    structure: Structure
    """Structure of the float program, with all changes of the quantized one except rounding."""
    plan: Plan
    """The plan with everything quantized; not altered."""
    schemes: Mapping[str, str]
    """Layer, or attention whose products are quantized, to its scheme."""
    fixed: frozenset[str]
    """Parts whose precision the user chose."""
    images: Tensor
    """``(images, channels, height, width)``, float32, normalized."""
    capture: Callable[[int | str], Program]
    """Captures the canonical float program of the reference at a batch size."""
    kernel_times: KernelTimes | None = None
    """Measures the time of parts; without it gains alone decide."""
    count_top1: CountTop1 | None = None
    """Counts top-1 on labelled images; None where no budget asks for it."""


@dataclass(frozen=True)
class MixedPrecisionResult:
    """The result of a mixed-precision search with the measurements that it rests on."""

    search: SearchResult = field(default_factory=SearchResult)
    shares: Mapping[str, float] = field(default_factory=dict)
    """Part to the power of its own error over that of everything quantized."""
    notes: tuple[str, ...] = ()
    """Sentences for the user."""

    def reasons(self) -> Iterator[tuple[str, str, str]]:
        """Yields every part of higher precision, its new scheme, and the reason."""
        for one in self.search.chosen:
            share = self.shares.get(one.part, 0.0)
            kept = "kept in float" if one.scheme == FLOAT else f"raised to {one.scheme}"
            yield one.part, one.scheme, f"{kept} by the budget: {share:.1%} of the noise"


def search_mixed_precision(inputs: SearchInputs, budget: Budget) -> MixedPrecisionResult:
    """Finds the parts that need a higher precision to meet a budget; nothing is altered.

    Args:
        inputs: the program and its reference.
        budget: the loss of quality that is allowed.

    Raises:
        BadImages: the float program's output is the same for all images, or more than 5 % of the labelled images
            cannot be read.
    """
    quantized = inputs.capture("dynamic")
    structure = find_structure(quantized)
    candidates = find_candidates(inputs.schemes, inputs.fixed)
    swaps = find_swaps(inputs.structure, structure, candidates)
    mixed = MixedExecution(insert(quantized, inputs.plan), swaps)
    evaluation = _Evaluation(inputs, mixed, quantized)
    start = evaluation.measure(())
    if budget.is_met(start):
        return MixedPrecisionResult(SearchResult(frontier=(FrontierPoint((), start.sqnr_db, start.top1, start.drop),)))
    few = inputs.images[:SENSITIVITY_IMAGES]
    with stage("measuring the sensitivity of each part"):
        gains = measure_gains(mixed, evaluation.expected[: len(few)], few)
    costs, notes = _costs(inputs, candidates)
    ranking = rank(gains, costs)
    search = Search(budget, ranking, gains, costs, evaluation.measure).run(start)
    whole = 10 ** (-start.sqnr_db / 10)
    shares = {one.part: gain / whole for one, gain in gains.items() if one.scheme == FLOAT}
    return MixedPrecisionResult(search, shares, notes)


def raise_precision(
    plan: Plan, structure: Structure, candidates: Sequence[Candidate], roundings: dict[str, RoundedWeight] | None = None
) -> None:
    """Changes a plan so that it computes parts at a higher precision.

    Args:
        plan: is altered.
        structure: of the float program that the plan belongs to.
        candidates: each part at most once.
        roundings: layer to the rounding of its weight; is altered with the plan.
    """
    rounded = {} if roundings is None else roundings
    layers = {layer.name: layer for layer in structure.layers}
    for one in candidates:
        layer = layers.get(one.part)
        if layer is None:
            plan.attention.pop(one.part)
            continue
        # The bias was corrected for a rounding that is no longer done.
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


def _costs(inputs: SearchInputs, candidates: Sequence[Candidate]) -> tuple[Costs | None, tuple[str, ...]]:
    """Measures the time that the candidates cost; returns a note in its place where that is not possible."""
    if inputs.kernel_times is None:
        return None, ()

    def planned(chosen: Sequence[Candidate]) -> Program:
        plan = copied(inputs.plan)
        raise_precision(plan, inputs.structure, chosen)
        return insert(inputs.capture(1), plan)

    levels: dict[str, list[Candidate]] = {}
    for one in candidates:
        levels.setdefault(one.scheme, []).append(one)
    programs = {scheme: _later(planned, chosen) for scheme, chosen in levels.items()}
    try:
        with stage("measuring what each part costs in ONNX Runtime"):
            return measure_costs(planned(()), programs, inputs.schemes, inputs.kernel_times), ()
    except (BadRecipe, DeviceFailed, MissingBackend) as error:
        return None, (f"precision was raised by gains alone, because the time of layers cannot be measured: {error}",)


def _later(make: Callable[[Sequence[Candidate]], Program], chosen: Sequence[Candidate]) -> Callable[[], Program]:
    return lambda: make(chosen)


def copied(plan: Plan) -> Plan:
    """Returns a copy of a plan that can be altered; tensors are shared."""
    return replace(
        plan,
        tensors=dict(plan.tensors),
        weights=dict(plan.weights),
        inputs=dict(plan.inputs),
        dynamic=set(plan.dynamic),
        attention=dict(plan.attention),
    )


class _Evaluation:
    """Measures the quality of programs against the float program, which runs once."""

    def __init__(self, inputs: SearchInputs, mixed: MixedExecution, program: Program) -> None:
        self.output = program.outputs[0].name
        self._inputs, self._mixed, self._program = inputs, mixed, program
        self._plain = Execution(inputs.structure.program.exported)
        self.expected = self._outputs(lambda batch: self._plain(batch)[0])
        self._right: int | None = None

    def measure(self, chosen: Sequence[Candidate]) -> Quality:
        """Returns the quality of the program with some candidates at their higher precision.

        Raises:
            BadImages: the float program's output is the same for all images.
        """
        several = "1 part" if len(chosen) == 1 else f"{len(chosen)} parts"
        kept = f"{several} at a higher precision" if chosen else "everything at the lowest precision"
        with stage(f"trying {kept}"):
            found = self._outputs(lambda batch: self._mixed.outputs(batch, chosen))
        (parity,) = compare({self.output: self.expected.numpy()}, {self.output: found.numpy()})
        if parity.degenerate:
            raise BadImages(f"No budget can be measured on these calibration images: {parity.degenerate}.")
        say(f"{kept}: {parity.centred_sqnr_db:.1f} dB")
        if self._inputs.count_top1 is None:
            return Quality(parity.centred_sqnr_db)
        if self._right is None:
            self._right, _ = self._inputs.count_top1(self._scores(lambda batch: self._plain(batch)[0]))
        right, total = self._inputs.count_top1(self._scores(lambda batch: self._mixed.outputs(batch, chosen)))
        return Quality(parity.centred_sqnr_db, right / total, 100 * (self._right - right) / total)

    def _outputs(self, run: Callable[[Tensor], Tensor]) -> Tensor:
        images = self._inputs.images
        starts = range(0, len(images), _BATCH)
        return torch.cat([run(images[start : start + _BATCH]) for start in counted(starts, unit="batch")])

    def _scores(self, run: Callable[[Tensor], Tensor]) -> Scores:
        """Returns a function that scores raw uint8 images, which it normalizes first."""
        preprocessing = self._program.spec.preprocessing
        return lambda pixels: run(torch.from_numpy(normalize(pixels, preprocessing))).numpy()
