# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.export import tiny
from tests.vitedge.quantization import plans
from tests.vitedge.quantization.small_models import Heads, Mixture, captured, run
from vitedge.accuracy.count import count_top1
from vitedge.errors import BadImages, DeviceFailed, MissingBackend
from vitedge.images.class_names import Classes
from vitedge.images.labelled import find_labelled
from vitedge.images.preprocess import normalize
from vitedge.program.canonical import canonicalize
from vitedge.program.execution import Execution
from vitedge.program.program import Program
from vitedge.program.structure import Structure, find_structure
from vitedge.quantization.insert import insert
from vitedge.quantization.mixed_precision.apply import (
    Scores,
    SearchInputs,
    copied,
    raise_precision,
    search_mixed_precision,
)
from vitedge.quantization.mixed_precision.costs import measure_costs, owner
from vitedge.quantization.mixed_precision.search import Budget
from vitedge.quantization.mixed_precision.sensitivity import Candidate, MixedExecution, find_swaps, measure_gains
from vitedge.quantization.plan import Plan

IMAGES = tiny.images(16)
LAYERS = ("conv", "left", "right", "head")
COARSE = "left"
"""The layer that is rounded to far fewer levels than the others."""


def structure(kind: Any = Mixture, **options: bool) -> Structure:
    return find_structure(canonicalize(captured(kind, **options)))


def capture(batch: int | str) -> Program:
    return canonicalize(captured(Mixture, batch))


@cache
def rounded() -> Plan:
    """Everything on eight bits, one layer on coarse ones; a bias that somebody corrected."""
    plain = structure()
    weights = plans.channel_weights(plain)
    integers, qparams = weights[COARSE]
    weights[COARSE] = (integers // 16, replace(qparams, scale=qparams.scale * 16))
    largest: dict[str, Tensor] = {}
    watches = {layer.input.name: partial(_keep_largest, largest, layer.name) for layer in plain.layers}
    Execution(plain.program.exported, watches)(IMAGES)
    largest[COARSE] = largest["right"]
    inputs = {name: plans.whole("int8", float(value) / 127) for name, value in largest.items() if name in LAYERS}
    inputs["right"] = inputs["left"]
    tensors = {"right.bias": plain.editor.value("right.bias") + 0.001}
    return Plan(tensors=tensors, weights=weights, inputs=inputs)


def _keep_largest(largest: dict[str, Tensor], name: str, value: Tensor) -> None:
    largest[name] = value.abs().max()


def ten_each(program: Program) -> Mapping[str, float]:
    """Every part takes ten microseconds at any precision, and what belongs to none takes five."""
    return {**{f"{name}/MatMul": 10.0 for name in LAYERS}, "reshape": 5.0}


def inputs(schemes: Mapping[str, str] | None = None, **changes: Any) -> SearchInputs:
    fixed = changes.pop("fixed", frozenset())
    schemes = schemes or dict.fromkeys(LAYERS, "int8")
    changes.setdefault("kernel_times", ten_each)
    return SearchInputs(structure(), copied(rounded()), schemes, fixed, IMAGES, capture, **changes)


def mixed(candidates: tuple[Candidate, ...], plan: Plan | None = None) -> MixedExecution:
    program = capture("dynamic")
    swaps = find_swaps(structure(), find_structure(program), candidates)
    return MixedExecution(insert(program, copied(plan or rounded())), swaps)


def planned(*chosen: Candidate) -> Tensor:
    """The output of the program whose plan has the candidates at their higher precision."""
    plan = copied(rounded())
    raise_precision(plan, structure(), chosen)
    return run(insert(capture("dynamic"), plan), IMAGES)


@pytest.mark.parametrize("parts", [("conv",), ("left",), ("right",), ("head",), ("left", "head"), LAYERS])
def test_a_part_in_float_computes_what_the_plan_without_it_computes(parts: tuple[str, ...]) -> None:
    everything = tuple(Candidate(name, "float") for name in LAYERS)
    chosen = tuple(one for one in everything if one.part in parts)
    found = mixed(everything).outputs(IMAGES, chosen)
    torch.testing.assert_close(found, planned(*chosen), rtol=0, atol=1e-6)
    assert not torch.allclose(found, planned(), rtol=0, atol=1e-5)


def test_everything_in_float_is_the_float_program() -> None:
    found = planned(*(Candidate(name, "float") for name in LAYERS))
    torch.testing.assert_close(found, run(capture("dynamic"), IMAGES), rtol=0, atol=1e-6)


def test_a_weight_of_four_bits_gets_eight() -> None:
    plan = Plan(weights={"left": plans.block_weight(structure().editor.value("left.weight"), 16)})
    eight, whole = Candidate("left", "w8"), Candidate("left", "float")
    four = mixed((eight, whole), plan)
    expected = run(capture("dynamic"), IMAGES)
    errors = [float((four.outputs(IMAGES, chosen) - expected).abs().max()) for chosen in ((), (eight,), (whole,))]
    assert errors[0] > 5 * errors[1] > 5 * errors[2] == pytest.approx(0.0, abs=1e-5)
    raise_precision(plan, structure(), (eight,))
    assert plan.weights["left"][1].dtype == "int8"
    torch.testing.assert_close(
        run(insert(capture("dynamic"), plan), IMAGES), four.outputs(IMAGES, (eight,)), rtol=0, atol=1e-6
    )


def test_one_pass_sees_every_part_alone() -> None:
    everything = tuple(Candidate(name, "float") for name in LAYERS)
    every = mixed(everything)
    seen: dict[Candidate | None, Tensor] = {}
    every.one_by_one(IMAGES, seen.__setitem__)
    assert set(seen) == {None, *everything}
    for one, output in seen.items():
        torch.testing.assert_close(output, every.outputs(IMAGES, () if one is None else (one,)), rtol=0, atol=0)


def test_the_part_that_is_rounded_worst_gains_most() -> None:
    everything = tuple(Candidate(name, "float") for name in LAYERS)
    gains = measure_gains(mixed(everything), run(capture("dynamic"), IMAGES[:8]), IMAGES[:8])
    assert max(gains, key=lambda one: gains[one]).part == COARSE
    assert min(gains.values()) > 0


def test_an_attention_becomes_float_as_a_whole() -> None:
    plain = find_structure(canonicalize(captured(Heads, fused=True)))
    (attention,) = plain.attentions
    qparams = {name: plans.whole("int8", 0.02) for name in ("query", "key", "value")}
    qparams["probabilities"] = plans.whole("int8", 1 / 127)
    program = canonicalize(captured(Heads, fused=True))
    one = Candidate(attention.name, "int8" if attention.name == "qkv" else "float")
    quantized = find_structure(program)
    insert(program, Plan(attention={attention.name: qparams}))
    found = MixedExecution(program, find_swaps(plain, quantized, (one,)))
    expected = run(canonicalize(captured(Heads, fused=True)), IMAGES)
    assert not torch.allclose(found.outputs(IMAGES), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.outputs(IMAGES, (one,)), expected, rtol=0, atol=1e-6)


def test_a_budget_is_met_with_as_few_parts_in_float_as_possible() -> None:
    given = inputs()
    done = search_mixed_precision(given, Budget(25.0, None))
    assert done.search.chosen == (Candidate(COARSE, "float"),)
    assert not done.search.shortfall
    assert done.search.frontier[0].sqnr_db < 25.0 <= done.search.frontier[1].sqnr_db
    assert {point.microseconds for point in done.search.frontier} == {45.0}
    assert list(done.reasons()) == [
        (COARSE, "float", f"kept in float by the budget: {done.shares[COARSE]:.1%} of the noise")
    ]
    # The search itself alters nothing.
    assert set(given.plan.weights) == set(LAYERS)


def test_a_budget_that_is_met_from_the_start_measures_no_parts() -> None:
    done = search_mixed_precision(inputs(), Budget(1.0, None))
    assert (done.search.chosen, done.shares, len(done.search.frontier)) == ((), {}, 1)


def test_costs_are_measured_at_every_precision_and_assigned_to_their_parts() -> None:
    asked: list[Program] = []

    def times(program: Program) -> Mapping[str, float]:
        """Float layers take a quarter more than those of eight bits."""
        asked.append(program)
        return {name: value * (1.0 if len(asked) == 1 else 1.25) for name, value in ten_each(program).items()}

    found = measure_costs(capture(1), {"float": lambda: capture(1)}, LAYERS, times)
    assert len(asked) == 2
    assert found.total == 45.0
    assert {found.extra[name, "float"] for name in LAYERS} == {2.5}


def test_without_costs_gains_alone_decide() -> None:
    done = search_mixed_precision(inputs(kernel_times=None), Budget(25.0, None))
    assert done.search.chosen == (Candidate(COARSE, "float"),)
    assert all(point.microseconds is None for point in done.search.frontier)
    assert done.notes == ()


@pytest.mark.parametrize("error", [DeviceFailed("it died"), MissingBackend("it is not installed")])
def test_costs_that_cannot_be_measured_are_told(error: Exception) -> None:
    def times(_program: Program) -> Mapping[str, float]:
        raise error

    done = search_mixed_precision(inputs(kernel_times=times), Budget(25.0, None))
    assert done.search.chosen == (Candidate(COARSE, "float"),)
    assert done.notes == (
        f"precision was raised by gains alone, because the time of layers cannot be measured: {error}",
    )


def test_a_precision_that_the_user_chose_stays_even_where_it_exceeds_the_budget() -> None:
    done = search_mixed_precision(inputs(fixed=frozenset({"head"})), Budget(90.0, None))
    assert {one.part for one in done.search.chosen} == {"conv", "left", "right"}
    assert done.search.frontier[-1].sqnr_db > done.search.frontier[0].sqnr_db + 20
    assert "90 dB were asked for" in done.search.shortfall


def test_top1_is_counted_on_labelled_images(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    spec = replace(tiny.spec("vit"), classes=5)
    np.savez(tmp_path / "images.npz", images=pixels, labels=np.arange(24) % 5)
    labelled = find_labelled(tmp_path / "images.npz", Classes(spec.classes))
    done = search_mixed_precision(
        inputs(count_top1=partial(count_top1, labelled, tiny.spec("vit"))), Budget(None, 100.0)
    )
    (point,) = done.search.frontier
    assert point.top1 is not None
    assert point.top1 * 24 == pytest.approx(round(point.top1 * 24))


def test_top1_that_is_lost_beyond_the_budget_is_regained() -> None:
    """Labelled by the float program itself, which is then right about everything."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 3, 32, 32), dtype=np.uint8)
    labels = run(capture("dynamic"), torch.from_numpy(normalize(pixels, tiny.spec("vit").preprocessing))).argmax(1)

    def count(scores: Scores) -> tuple[int, int]:
        return int((scores(pixels).argmax(1) == labels.numpy()).sum()), len(pixels)

    done = search_mixed_precision(inputs(count_top1=count), Budget(None, 0.0))
    first, *_, last = done.search.frontier
    assert first.top1 is not None
    assert first.top1 < 1.0 == last.top1
    assert done.search.chosen


def test_images_that_look_alike_are_refused() -> None:
    alike = replace(inputs(), images=IMAGES[:1].repeat(4, 1, 1, 1))
    with pytest.raises(BadImages, match="No budget can be measured"):
        search_mixed_precision(alike, Budget(20.0, None))


def test_kernels_are_assigned_to_the_module_that_they_are_named_after() -> None:
    parts = ("blocks.0.attn", "blocks.0.attn.qkv")
    assert owner("blocks.0.attn.qkv/MatMul/MatMulAddFusion", parts) == "blocks.0.attn.qkv"
    assert owner("blocks.0.attn/Softmax", parts) == "blocks.0.attn"
    assert owner("gemm_input_reshape_token_8", parts) == ""
