# SPDX-License-Identifier: Apache-2.0
"""Tests of `diagnostics` and `attention.diagnostics`."""

from __future__ import annotations

import copy
import io
import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from tests.export import tiny
from tests.seeding import seeded
from vitedge.files.plain import from_dict, to_dict
from vitedge.program.canonical import canonicalize
from vitedge.program.capture import capture
from vitedge.program.program import Program
from vitedge.program.structure import find_structure
from vitedge.quantization.diagnostics import diagnose, measure_attended
from vitedge.quantization.insert import insert
from vitedge.quantization.parameters import QuantizationParameters, dequantize, fake_quantize, quantize
from vitedge.quantization.plan import Plan
from vitedge.quantization.records import AttentionDiagnosis, LayerDiagnosis, QuantizationRecord
from vitedge.runtimes.feeding import DYNAMIC_BATCH

IMAGES = tiny.images(6)


class TwoLayers(nn.Module):
    """A convolution, a rectification, and a Linear over what is left of the map."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 8, 8)
        self.second = nn.Linear(4 * 16, 5)

    def forward(self, image: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(image)).flatten(1))  # type: ignore[no-any-return]


@cache
def two_layers() -> nn.Module:
    return seeded(TwoLayers())


def reference(name: str, batch: int | str = "dynamic") -> Program:
    """A canonical program that nobody alters, captured once."""
    return _captured(name, batch)


@cache
def _captured(name: str, batch: int | str) -> Program:
    if name == "two":
        captured = capture(two_layers(), tiny.spec("vit"), ("first", "second"), batch=batch)
    else:
        tokens = ("class",) if name == "vit" else ()
        spec = replace(tiny.spec(name), tokens=tokens)
        captured = capture(tiny.model(name), spec, tiny.BLOCKS[name], batch=batch)
    return canonicalize(captured)


def program(name: str, batch: int | str = "dynamic") -> Program:
    """A copy of it, to be altered."""
    captured = reference(name, batch)
    return replace(captured, exported=copy.deepcopy(captured.exported))


def qparams(scale: float, zero_point: int = 0, dtype: str = "int8") -> QuantizationParameters:
    return QuantizationParameters(dtype, torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32))


def weights(name: str) -> dict[str, tuple[Tensor, QuantizationParameters]]:
    structure = find_structure(reference(name))
    found = {}
    for layer in structure.layers:
        weight = structure.editor.value(layer.weight)
        scale = weight.flatten(1).abs().amax(dim=1) / 127
        channels = QuantizationParameters("int8", scale, torch.zeros_like(scale, dtype=torch.int32), axis=0)
        found[layer.name] = (quantize(weight, channels), channels)
    return found


def whole(name: str) -> Plan:
    """Everything rounded: layers on uint8, attentions on int8."""
    structure = find_structure(reference(name))
    operands = {"query": qparams(0.03), "key": qparams(0.05), "probabilities": qparams(1 / 127), "value": qparams(0.05)}
    return Plan(
        weights=weights(name),
        inputs={layer.name: qparams(8 / 255, 128, "uint8") for layer in structure.layers},
        attention={attention.name: operands for attention in structure.attentions},
    )


def decibels(expected: Tensor, found: Tensor) -> float:
    return float(10 * torch.log10(expected.square().sum() / (found - expected).square().sum()))


def of(name: str, quantized: Program) -> tuple[dict[str, LayerDiagnosis], dict[str, AttentionDiagnosis]]:
    layers, attentions = diagnose(reference(name), quantized, IMAGES)
    return {layer.layer: layer for layer in layers}, {attention.attention: attention for attention in attentions}


@pytest.mark.parametrize("name", ["vit", "swin", "mobilevitv2"])
def test_a_program_loses_nothing_against_itself(name: str) -> None:
    layers, attentions = of(name, program(name))
    assert set(layers) == {layer.name for layer in find_structure(reference(name)).layers}
    for layer in layers.values():
        ratios = (layer.sqnr_db, layer.alone_db, layer.weight_sqnr_db, layer.input_sqnr_db)
        assert ratios == (math.inf,) * 4
        assert layer.saturation == 0.0
    assert attentions
    for attention in attentions.values():
        assert attention.kl < 1e-6
        assert attention.row_mass == pytest.approx(1.0)
        assert attention.dead_fraction == 0.0
        assert attention.entropy_quantized == attention.entropy_float
        assert attention.distance_quantized == attention.distance_float


def test_a_layer_is_judged_where_it_stands_and_alone() -> None:
    narrow = qparams(0.01)
    plan = Plan(weights={"first": weights("two")["first"]}, inputs={"first": narrow})
    layers, _ = of("two", insert(program("two"), plan))
    module = two_layers()
    first = module.get_submodule("first")
    assert isinstance(first, nn.Conv2d)
    integers, channels = plan.weights["first"]
    weight = dequantize(integers, channels)
    with torch.no_grad():
        expected = first(IMAGES)
        rounded = fake_quantize(IMAGES, narrow)
        found = nn.functional.conv2d(rounded, weight, first.bias, stride=8)
        logits = module(IMAGES), module.get_submodule("second")(torch.relu(found).flatten(1))
    assert layers["first"].sqnr_db == layers["first"].alone_db == pytest.approx(decibels(expected, found), abs=0.01)
    assert layers["first"].weight_sqnr_db == pytest.approx(decibels(first.weight.detach(), weight), abs=1e-3)
    assert layers["first"].input_sqnr_db == pytest.approx(decibels(IMAGES, rounded), abs=1e-3)
    levels = (IMAGES / 0.01).round()
    outside = float(((levels > 127) | (levels < -128)).float().mean())
    assert layers["first"].saturation == pytest.approx(outside)
    assert 0.1 < outside < 0.3
    assert layers["second"].sqnr_db == pytest.approx(decibels(*logits), abs=0.01)
    assert layers["second"].alone_db == math.inf  # it is not rounded itself


def test_a_shifted_input_is_the_same_input() -> None:
    """Half of the levels are unused by values that are never negative, unless these are shifted into the middle."""
    with torch.no_grad():
        top = float(two_layers().get_submodule("first")(IMAGES).max())
    rounded = Plan(weights={"second": weights("two")["second"]}, inputs={"second": qparams(top / 127)})
    plain, _ = of("two", insert(program("two"), rounded))
    structure = find_structure(reference("two"))
    weight, bias = structure.editor.value("second.weight"), structure.editor.value("second.bias")
    shifted = Plan(
        tensors={"second.bias": bias + top / 2 * weight.sum(dim=1)},
        weights=rounded.weights,
        inputs={"second": qparams(top / 2 / 127)},
        shifts={"second": top / 2},
    )
    centred, _ = of("two", insert(program("two"), shifted))
    assert centred["second"].input_sqnr_db == pytest.approx(plain["second"].input_sqnr_db + 6.0, abs=1.0)
    assert centred["second"].saturation == plain["second"].saturation == 0.0
    unrounded = Plan(tensors=shifted.tensors, shifts=shifted.shifts)
    both, _ = diagnose(insert(program("two"), unrounded), insert(program("two"), shifted), IMAGES)
    assert both[1].input_sqnr_db == pytest.approx(centred["second"].input_sqnr_db, abs=0.01)


def test_a_range_found_at_run_time_clamps_nothing() -> None:
    plan = Plan(weights=weights("two"), dynamic={"first", "second"})
    layers, _ = of("two", insert(program("two"), plan))
    for layer in layers.values():
        assert 30 < layer.input_sqnr_db < 60
        assert layer.saturation == 0.0
        assert layer.sqnr_db <= layer.alone_db < math.inf


def test_attention_is_measured_on_what_the_model_computes() -> None:
    """Against the model's own modules, one head and one query at a time."""
    layers, attentions = of("vit", insert(program("vit"), whole("vit")))
    module = tiny.model("vit")
    seen: list[Tensor] = []
    module.get_submodule("blocks.0.attn.qkv").register_forward_hook(lambda *hooked: seen.append(hooked[2]))
    with torch.no_grad():
        module(IMAGES)
    query, key, _ = seen[0].reshape(len(IMAGES), 17, 3, 3, 16).permute(2, 0, 3, 1, 4)
    attention = (query @ key.transpose(-2, -1) / 4).softmax(dim=-1).double()
    heads = -(attention * attention.log()).sum(dim=-1).mean(dim=(0, 2))
    found = attentions["blocks.0.attn"]
    assert found.attended == pytest.approx(float(heads.exp().max()), rel=1e-4)
    on_map = attention[..., 1:, 1:] / attention[..., 1:, 1:].sum(dim=-1, keepdim=True)
    assert found.entropy_float == pytest.approx(float(-(on_map * on_map.log()).sum(dim=-1).mean()), rel=1e-4)
    apart = [[(abs(i % 4 - j % 4) + abs(i // 4 - j // 4)) / 4 for i in range(16)] for j in range(16)]
    assert found.distance_float == pytest.approx(float((on_map * torch.tensor(apart)).sum(dim=-1).mean()), rel=1e-4)
    assert 0.9 < found.row_mass < 1.1
    assert 0.0 < found.dead_fraction < 1.0
    assert 0.0 < found.kl < 1.0
    assert found.entropy_quantized != found.entropy_float
    assert [one.levels for one in found.survival] == [255, 127]
    assert found.survival[0].dead_fraction < found.survival[1].dead_fraction
    assert found.survival[1].dead_fraction == pytest.approx(found.dead_fraction, abs=0.05)
    assert layers["blocks.0.attn.proj"].sqnr_db < layers["blocks.0.attn.proj"].alone_db


def test_rows_that_rounding_empties_are_told() -> None:
    """With a scale above every probability nothing is left of a row, and no row has an entropy."""
    plan = Plan(attention={"blocks.0.attn": {"probabilities": qparams(3.0)}})
    _, attentions = of("vit", insert(program("vit"), plan))
    found = attentions["blocks.0.attn"]
    assert (found.row_mass, found.dead_fraction) == (0.0, 1.0)
    assert found.entropy_quantized is None
    assert found.distance_quantized is None
    assert found.kl < 1e-6  # nothing before it was rounded


def test_separable_attention_has_a_distance_to_its_centroid() -> None:
    _, attentions = of("mobilevitv2", program("mobilevitv2"))
    (found,) = attentions.values()
    assert found.attention == "stages.1.1.transformer.0.attn"
    assert found.tokens == 16
    assert found.entropy_float is not None
    assert 1.0 < found.entropy_float < math.log(16)
    assert found.distance_float is not None
    assert 0.2 < found.distance_float <= 0.5  # what a uniform row has


def test_windows_are_maps_of_their_own() -> None:
    _, attentions = of("swin", insert(program("swin"), whole("swin")))
    assert len(attentions) == 3
    for found in attentions.values():
        assert found.tokens == 16
        assert found.distance_float is not None
        assert found.distance_quantized == pytest.approx(found.distance_float, abs=0.05)


def test_a_fixed_batch_that_was_saved_gives_the_same() -> None:
    """The number of images is a multiple of the batch, so that none counts twice."""
    assert len(IMAGES) % DYNAMIC_BATCH  # and the dynamic batch is cut at the end
    plan = whole("vit")
    buffer = io.BytesIO()
    fixed = insert(program("vit", batch=2), plan)
    torch.export.save(fixed.exported, buffer)
    loaded = replace(fixed, exported=torch.export.load(io.BytesIO(buffer.getvalue())))
    expected, found = of("vit", insert(program("vit"), plan)), of("vit", loaded)
    for name, layer in found[0].items():
        assert layer.sqnr_db == pytest.approx(expected[0][name].sqnr_db, abs=0.2)
        assert layer.alone_db == pytest.approx(expected[0][name].alone_db, abs=0.05)
    for name, attention in found[1].items():
        assert attention.attended == pytest.approx(expected[1][name].attended, rel=1e-4)


def test_too_few_images_for_a_fixed_batch_are_repeated() -> None:
    once, _ = diagnose(reference("two"), insert(program("two", batch=4), Plan(weights=weights("two"))), IMAGES[:2])
    twice, _ = diagnose(reference("two"), insert(program("two"), Plan(weights=weights("two"))), IMAGES[:2])
    assert once[0].sqnr_db == pytest.approx(twice[0].sqnr_db, abs=1e-3)


def test_attended_tokens_are_known_before_anything_is_quantized() -> None:
    measured = measure_attended(reference("vit"), IMAGES)
    _, attentions = of("vit", program("vit"))
    assert measured == {name: pytest.approx(found.attended) for name, found in attentions.items()}
    assert all(1.0 < value < 17.0 for value in measured.values())


def test_programs_of_two_models_are_not_compared() -> None:
    with pytest.raises(ValueError, match="the quantized program has no"):
        diagnose(reference("vit"), reference("two"), IMAGES)


def test_what_was_found_survives_json() -> None:
    layers, attentions = diagnose(reference("vit"), program("vit"), IMAGES)
    record = QuantizationRecord("int8", 6, "synthetic, seed 0", "00", diagnoses=layers, attentions=attentions)
    assert from_dict(QuantizationRecord, to_dict(record)) == record
