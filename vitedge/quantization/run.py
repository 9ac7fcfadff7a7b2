# SPDX-License-Identifier: Apache-2.0
"""The stages of quantization: a reference and images in, a plan that fits every capture of the reference out.

`STAGES` lists them in order. The float program is captured once, at a dynamic batch. One pass over the images collects
all statistics of activations; later changes of weights transform these statistics in a known way.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice
from types import ModuleType
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from vitedge.calibration import ranges
from vitedge.calibration.cache import Observed, hash_key, resumable
from vitedge.calibration.moments import InputStatistics
from vitedge.calibration.observations import Stats
from vitedge.export.formats import QuantizedForm
from vitedge.images.preprocess import normalize
from vitedge.images.stream import ImageStream
from vitedge.models.reference import Reference, output_names
from vitedge.parity.metrics import compare
from vitedge.program.canonical import canonicalize
from vitedge.program.capture import capture
from vitedge.program.editor import duplicate
from vitedge.program.float16 import SMALLEST_NORMAL
from vitedge.program.lockstep import Lockstep
from vitedge.program.program import Program
from vitedge.program.structure import Layer, Structure, find_structure
from vitedge.progress import advance, count, counted, stage
from vitedge.quantization import observing
from vitedge.quantization.activation import activation_parameters
from vitedge.quantization.applied import refuse_unapplied
from vitedge.quantization.attention.parameters import attention_parameters
from vitedge.quantization.attention.policy import Decision, decide
from vitedge.quantization.correction import measure_bias
from vitedge.quantization.diagnostics import diagnose, measure_attended
from vitedge.quantization.effort import EXTENTS
from vitedge.quantization.insert import insert
from vitedge.quantization.memory import freed_at_once
from vitedge.quantization.mixed_precision.apply import (
    CountTop1,
    MixedPrecisionResult,
    SearchInputs,
    raise_precision,
    search_mixed_precision,
)
from vitedge.quantization.mixed_precision.costs import KernelTimes
from vitedge.quantization.mixed_precision.search import budget_of
from vitedge.quantization.observing import calibration_batch, identify, input_consumers, measure_moments, watcher
from vitedge.quantization.parameters import ENDS, fake_quantize
from vitedge.quantization.placement import SCHEMES, LayerPlacement, choose, is_asked_for
from vitedge.quantization.plan import Plan
from vitedge.quantization.records import AttentionDiagnosis, LayerDiagnosis, StepRecord
from vitedge.quantization.steps.rounding_error import Precision
from vitedge.quantization.steps.sequence import STEPS
from vitedge.quantization.weights import adaround, gptq, nearest
from vitedge.quantization.weights.parameters import WeightSettings, fit_block
from vitedge.quantization.weights.rounding import RoundedWeight
from vitedge.recipe import FloatType, QuantizationRecipe, WeightRounding
from vitedge.records import OutputParity

_ATTENDED_IMAGES = 4
"""Number of images that show how widely attentions spread."""
_SCALES_APART = 2.0
"""Ratio of a layer's largest scale to the smallest of float16 from which the smallest is good enough."""
Kind = Literal["uint8", "int8", "uint16", "int16"]
_ROUNDINGS: dict[WeightRounding, ModuleType] = {
    WeightRounding.NEAREST: nearest,
    WeightRounding.GPTQ: gptq,
    WeightRounding.ADAROUND: adaround,
}


@dataclass
class Quantization:
    """The state of one quantization: its inputs, and the result of each stage that has run."""

    reference: Reference
    recipe: QuantizationRecipe
    form: QuantizedForm
    """The form of quantized program that the target's compiler takes."""
    activations: str
    """Integer type of 8-bit activations: ``uint8`` with zero points or ``int8`` without."""
    stream: ImageStream | None = None
    """The calibration images; None for a scheme that needs none."""
    features: bool = False
    """Whether the program puts out features in place of class scores."""
    kernel_times: KernelTimes | None = None
    """Measures the time of layers for a budget; without it the mixed-precision search ranks by gains alone."""
    count_top1: CountTop1 | None = None
    """Counts top-1 for a budget that limits its loss."""
    structure: Structure = field(init=False)
    choices: dict[str, LayerPlacement] = field(init=False)
    """Layer to its scheme."""
    inputs: dict[str, Stats] = field(default_factory=dict)
    """Layer to the calibration statistics of its input; layers that read the same value share an entry."""
    observed: Observed | None = None
    """The calibration as the cache keeps it."""
    images: Tensor = field(default_factory=lambda: torch.empty(0))
    """The first of the calibration images, normalized, ``(images, channels, height, width)`` float32."""
    plan: Plan = field(default_factory=Plan)
    roundings: dict[str, RoundedWeight] = field(default_factory=dict)
    """Layer to the rounding of its weight."""
    attentions: dict[str, Decision] = field(default_factory=dict)
    """Attention to the operands that are quantized."""
    ranges: dict[str, ranges.ChosenRange] = field(default_factory=dict)
    """Layer to the range of its input and the estimator that found it."""
    steps: tuple[StepRecord, ...] = ()
    diagnoses: tuple[LayerDiagnosis, ...] = ()
    attention_diagnoses: tuple[AttentionDiagnosis, ...] = ()
    mixed_precision: MixedPrecisionResult = field(default_factory=MixedPrecisionResult)
    """The result of the mixed-precision search; empty without a budget."""
    outputs: tuple[OutputParity, ...] = ()
    """The simulation compared with the float reference, one entry an output."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Title of a stage to its wall time in seconds."""
    _captured: dict[tuple[int | str, str], Program] = field(default_factory=dict)

    def captured(self, batch: int | str, dtype: str = "float32") -> Program:
        """Returns a copy of the canonical float program of the reference, to be edited; it is captured once."""
        if (batch, dtype) not in self._captured:
            reference, features = self.reference, self.features
            module = reference.deployed(uint8=dtype == "uint8", features=features)
            program = capture(module, reference.spec, reference.blocks, batch=batch, dtype=dtype, features=features)
            self._captured[batch, dtype] = canonicalize(program)
        program = self._captured[batch, dtype]
        return replace(program, exported=duplicate(program.exported))

    def program(self, batch: int | str, dtype: str = "float32") -> Program:
        """Returns the quantized program for images of that batch and dtype (``float32`` or ``uint8``)."""
        return insert(self.captured(batch, dtype), self.plan)


def analyse(job: Quantization) -> None:
    """Captures the reference and decides the scheme of each layer."""
    job.structure = find_structure(job.captured("dynamic"))
    job.choices = choose(job.structure, job.recipe, job.form)
    possible = () if job.recipe.attention == "none" else tuple(one.name for one in job.structure.attentions)
    refuse_unapplied(job.structure, job.choices, job.recipe, possible)
    job.plan.integer_biases = job.form.integer_biases


def calibrate(job: Quantization) -> None:
    """Collects statistics of layers' inputs over all images, and keeps some of the images."""
    stream, preprocessing = job.stream, job.reference.spec.preprocessing
    if stream is None:
        return
    step, batch = watcher(job.structure), calibration_batch()
    job.observed = resumable(
        stream,
        hash_key({**identify(job.structure), "images": stream.fingerprint(), "preprocessing": str(preprocessing)}),
        batch,
        lambda pixels, stats: step(torch.from_numpy(normalize(pixels, preprocessing)), stats),
    )
    kept = EXTENTS[job.recipe.effort].kept
    first = np.concatenate(list(islice(stream.batches(batch), math.ceil(kept / batch))))[:kept]
    job.images = torch.from_numpy(normalize(first, preprocessing))
    for layers in input_consumers(job.structure).values():
        job.inputs.update({layer.name: job.observed.stats[layers[0].name] for layer in layers})


def prepare_activations(job: Quantization) -> None:
    """Rewrites tensors so that activations lose less by rounding; the float program computes the same."""
    if job.stream is None:
        return
    _decide_attentions(job)
    precision = Precision(_activations_prepared_for(job), bias_corrected=job.recipe.bias_correction)
    for name in _steps(job):
        with stage(name):
            job.steps += STEPS[name](job.structure, job.inputs, precision)
    job.plan.tensors = dict(job.structure.editor.edited)
    job.plan.shifts = {step.module: step.shift for step in job.steps if step.shift}
    # Captured again with the steps' changes, subtracted shifts included: the float program from here on.
    job.structure = find_structure(insert(job.captured("dynamic"), Plan(job.plan.tensors, shifts=job.plan.shifts)))


def quantize_tensors(job: Quantization) -> None:
    """Finds the quantization parameters of activations, and rounds weights."""
    quantized = [name for name, decision in job.attentions.items() if decision.operands]
    refuse_unapplied(job.structure, job.choices, job.recipe, quantized)
    for layer in counted(job.structure.layers, unit="layer"):
        scheme = SCHEMES[job.choices[layer.name].scheme]
        if scheme.activation == "dynamic":
            job.plan.dynamic.add(layer.name)
        elif scheme.activation is not None:
            _set_input_parameters(job, layer, _activation_type(job, scheme.activation))
    operands = {name: decision.operands for name, decision in job.attentions.items() if decision.operands}
    if operands:
        qparams = attention_parameters(job.structure, operands, job.images, job.activations, job.recipe.ranges)
        job.plan.attention.update(qparams)
    _round_weights(job)


def correct(job: Quantization) -> None:
    """Corrects the bias of every quantized layer by the mean error of its output."""
    if not job.recipe.bias_correction or job.stream is None:
        return
    shifts = measure_bias(job.structure, job.program("dynamic"), set(job.plan.weights), job.images)
    for layer in job.structure.layers:
        if layer.name in shifts:
            job.plan.tensors[layer.bias] = job.structure.editor.value(layer.bias) + shifts[layer.name]


def search_precision(job: Quantization) -> None:
    """Searches for the layers that need a higher precision to meet the budget, where there is one."""
    budget = budget_of(job.recipe)
    if budget is None or job.stream is None:
        return
    job.mixed_precision = search_mixed_precision(_search_inputs(job), budget)
    raise_precision(job.plan, job.structure, job.mixed_precision.search.chosen, job.roundings)
    for part, scheme, reason in job.mixed_precision.reasons():
        if part in job.choices:
            job.choices[part] = LayerPlacement(scheme, reason)
        else:
            job.attentions[part] = Decision((), reason)
    job.ranges = {name: found for name, found in job.ranges.items() if name in job.plan.inputs}


def _search_inputs(job: Quantization) -> SearchInputs:
    """Returns the quantized program and its reference for the mixed-precision search."""
    parts = (*job.choices, *job.plan.attention)
    fixed = frozenset(part for part in parts if is_asked_for(part, job.structure, job.recipe))
    schemes = {
        **{name: choice.scheme for name, choice in job.choices.items()},
        **dict.fromkeys(job.plan.attention, "int8"),
    }
    return SearchInputs(
        job.structure,
        job.plan,
        schemes,
        fixed,
        job.images,
        job.captured,
        kernel_times=job.kernel_times,
        count_top1=job.count_top1,
    )


def compare_simulation(job: Quantization) -> None:
    """Compares the simulation with the float reference on the images that were kept."""
    if job.stream is None:
        return
    labels = output_names(features=job.features)
    program = job.program("dynamic")
    expected = observing.outputs_of(job.reference.deployed(uint8=False, features=job.features), job.images)
    found = [output.numpy() for output in Lockstep(program.exported)(job.images)]
    job.outputs = compare(dict(zip(labels, expected, strict=True)), dict(zip(labels, found, strict=True)))
    few = job.images[: EXTENTS[job.recipe.effort].diagnosed]
    if len(few):
        job.diagnoses, job.attention_diagnoses = diagnose(job.structure.program, program, few)


STAGES: tuple[tuple[str, Callable[[Quantization], None]], ...] = (
    ("analysing the model", analyse),
    ("calibrating", calibrate),
    ("preparing activations", prepare_activations),
    ("rounding", quantize_tensors),
    ("correcting biases", correct),
    ("holding the budget", search_precision),
    ("simulating", compare_simulation),
)


def quantize(job: Quantization) -> Quantization:
    """Runs all stages and returns the same object with their results.

    Args:
        job: the reference, the recipe and the images; is altered.

    Raises:
        BadRecipe: a layer is named that does not exist.
        BadImages: too many images cannot be read.
        UnusableActivations: an activation holds NaN or infinity on the images.
    """
    for title, run in STAGES:
        start = time.perf_counter()
        told = stage(title) if run is not search_precision or budget_of(job.recipe) else nullcontext()
        with told, torch.no_grad(), nullcontext() if run is calibrate else freed_at_once():
            run(job)
        job.seconds[title] = time.perf_counter() - start
    return job


def _activation_type(job: Quantization, bits: str) -> Kind:
    """Returns the integer type of activations of ``8`` or ``16`` bits, signed or not as the job's 8-bit ones."""
    return cast("Kind", f"{job.activations.removesuffix('8')}{bits}")


def _decide_attentions(job: Quantization) -> None:
    """Decides the operands of each attention that are quantized; none where activations have no eight bits."""
    asked = job.recipe.attention if job.recipe.scheme in ("int8", "mixed") else "none"
    decided = asked != "auto" or bool(job.form.float_attention)
    spread = {} if decided else measure_attended(job.structure.program, job.images[:_ATTENDED_IMAGES])
    job.attentions = decide(job.structure.attentions, spread, job.form, asked, job.recipe.layers)


def _activations_prepared_for(job: Quantization) -> Kind | None:
    """Returns the integer type of the inputs of most layers; None where only weights are rounded."""
    kinds = Counter(SCHEMES[choice.scheme].activation for choice in job.choices.values())
    kind = kinds.most_common(1)[0][0]
    if kind == "dynamic":
        return "uint8"
    return None if kind is None else _activation_type(job, kind)


def _steps(job: Quantization) -> Iterator[str]:
    """Yields the names of the steps that are switched on, in their order."""
    recipe = job.recipe
    rounds_scores = any(decision.operands for decision in job.attentions.values())
    switches = {
        "smoothing": recipe.smoothing,
        "value-equalization": recipe.equalization,
        "query-equalization": recipe.equalization and rounds_scores,
        "shift": recipe.shift and job.activations == "int8",
        "residual-rotation": recipe.rotation,
        "head-rotation": recipe.rotation,
    }
    return (name for name in STEPS if switches.get(name, True))


def _set_input_parameters(job: Quantization, layer: Layer, dtype: str) -> None:
    """Finds the quantization parameters of a layer's input; layers that read the same value get the same ones."""
    consumers = input_consumers(job.structure)[layer.input]
    for name in (other.name for other in consumers if other.name in job.plan.inputs):
        if job.plan.inputs[name].dtype == dtype:
            job.plan.inputs[layer.name], job.ranges[layer.name] = job.plan.inputs[name], job.ranges[name]
            return
    # The squared error of an input grows in the output by the sum of the squared weights that multiply it.
    weights = [job.structure.editor.value(other.weight) for other in consumers if other.groups == 1]
    importance = sum(
        (weight.square().flatten(2).sum((0, 2)) if weight.dim() > 2 else weight.square().sum(0) for weight in weights),
        torch.zeros(()),
    )
    qparams, found = activation_parameters(
        layer.name, job.inputs[layer.name], dtype, job.recipe.ranges, importance if weights else None
    )
    job.plan.inputs[layer.name], job.ranges[layer.name] = qparams, found


def _round_weights(job: Quantization) -> None:
    """Rounds every weight; those whose method needs second moments of the input after one pass over the images."""
    layers = [layer for layer in job.structure.layers if SCHEMES[job.choices[layer.name].scheme].weight is not None]
    learned = tuple(layer for layer in layers if _method(job, layer) is not nearest)
    for layer in counted([layer for layer in layers if layer not in learned], unit="weight"):
        _round(job, layer, None)
    count(len(learned), unit="weight")
    for layer, inputs in measure_moments(
        job.structure, learned, job.images, lambda layer, value: _as_read(job, layer, value)
    ):
        _round(job, layer, inputs)
        advance()


def _round(job: Quantization, layer: Layer, inputs: InputStatistics | None) -> None:
    """Rounds one weight."""
    # A bias that is corrected afterwards removes the mean of the error, so that only the rest counts.
    centred = inputs.centred() if inputs is not None and job.recipe.bias_correction else inputs
    rounding = _method(job, layer).round_weight(
        job.structure.editor.value(layer.weight), _settings(job, layer), centred
    )
    job.roundings[layer.name] = rounding
    job.plan.weights[layer.name] = (rounding.integers, rounding.qparams)


def _settings(job: Quantization, layer: Layer) -> WeightSettings:
    """Returns the settings of the quantization parameters of a layer's weight."""
    scheme, weight = SCHEMES[job.choices[layer.name].scheme], job.structure.editor.value(layer.weight)
    block = fit_block(weight[0].numel(), job.recipe.block) if scheme.blocks else None
    settings = WeightSettings(scheme.weight or "int8", block)
    widest = float(weight.abs().max()) / ENDS[settings.dtype][1]
    if job.form.rest is FloatType.FP16 and widest >= _SCALES_APART * SMALLEST_NORMAL:
        # A step of float16's smallest normal number is finer than that of the layer's widest channel all the same.
        return replace(settings, smallest_scale=SMALLEST_NORMAL)
    return settings


def _method(job: Quantization, layer: Layer) -> ModuleType:
    """Returns the rounding method of a layer's weight: by itself GPTQ where it is worth it, if there are images."""
    asked = job.recipe.rounding
    if asked is WeightRounding.AUTO:
        worth_it = SCHEMES[job.choices[layer.name].scheme].blocks or EXTENTS[job.recipe.effort].learned
        asked = WeightRounding.GPTQ if worth_it and job.images.numel() else WeightRounding.NEAREST
    return _ROUNDINGS[asked]


def _as_read(job: Quantization, layer: Layer, value: Tensor) -> Tensor:
    qparams = job.plan.inputs.get(layer.name)
    return value if qparams is None else fake_quantize(value, qparams)
