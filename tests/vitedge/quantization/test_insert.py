# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import operator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tests.export import tiny
from tests.vitedge.quantization import small_models as small
from tests.vitedge.quantization.plans import block_weight, channel_weight, whole
from vitedge.program.canonical import canonicalize
from vitedge.program.capture import capture
from vitedge.program.editor import aten
from vitedge.program.program import Program
from vitedge.program.qdq import CHOOSE, DEQUANTIZE, DEQUANTIZE_BLOCKS, DEQUANTIZE_CHANNELS, QUANTIZE
from vitedge.quantization.insert import insert
from vitedge.quantization.parameters import QuantizationParameters, fake_quantize
from vitedge.quantization.plan import Plan

IMAGES = tiny.images(3)
MODULE: Any = small.built(small.Mixture)
NAMES = ("conv", "left", "right", "head")
Array = NDArray[Any]


def weight_of(name: str) -> Tensor:
    weight: Tensor = getattr(MODULE, name).weight.detach()
    return weight


@torch.no_grad()
def read_by() -> dict[str, Tensor]:
    """Returns layer to its input in the float model."""
    hidden = functional.gelu(MODULE.conv(IMAGES)).flatten(2).transpose(1, 2)
    mean = (functional.gelu(MODULE.left(hidden)) + MODULE.right(hidden)).mean(1)
    return {"conv": IMAGES, "left": hidden, "right": hidden, "head": mean}


@torch.no_grad()
def rest(name: str, output: Tensor) -> Tensor:
    """Computes the rest of the float model from the output of one of its layers."""
    if name == "head":
        return output
    if name == "conv":
        hidden = functional.gelu(output).flatten(2).transpose(1, 2)
        return MODULE.head((functional.gelu(MODULE.left(hidden)) + MODULE.right(hidden)).mean(1))  # type: ignore[no-any-return]
    return MODULE.head((functional.gelu(output) + MODULE.right(read_by()["right"])).mean(1))  # type: ignore[no-any-return]


def qparams_of(values: Tensor, dtype: str = "uint8") -> QuantizationParameters:
    """Returns parameters over a range that clamps a little."""
    low, high = 0.9 * float(values.min()), 0.9 * float(values.max())
    if dtype == "int8":
        return whole(dtype, float(torch.tensor(max(-low, high) / 127)))
    scale = float(torch.tensor((high - low) / 255))
    return whole(dtype, scale, round(-low / scale))


def inserted(plan: Plan, batch: int | str = "dynamic", **options: Any) -> Program:
    kind = options.pop("kind", small.Mixture)
    return insert(canonicalize(small.captured(kind, batch, **options)), plan)


def targets(program: Program) -> list[Any]:
    return [node.target for node in program.exported.graph.nodes if node.op == "call_function"]


def by_integers(name: str, plan: Plan) -> Array:
    """The output of a layer as arXiv:1712.05877 computes it: sums of products of integers, scaled at the end."""
    integers, qparams = plan.weights[name]
    given = plan.inputs[name]
    low, high = given.ends
    scale, zero_point = np.float32(given.scale), int(given.zero_point)
    read = read_by()[name].numpy()
    found = np.clip(np.rint(read * (np.float32(1) / scale)) + zero_point, low, high).astype(np.int64) - zero_point
    unit = (given.scale * qparams.scale).numpy()
    bias = np.rint(getattr(MODULE, name).bias.detach().double().numpy() / unit.astype(np.float64)).astype(np.int64)
    weight = integers.numpy().astype(np.int64)
    if name == "conv":  # patches of 8 x 8 that do not overlap
        patches = found.reshape(len(found), 3, 4, 8, 4, 8)
        sums = np.einsum("bcyixj,ocij->boyx", patches, weight) + bias[:, None, None]
        return (sums * unit[:, None, None]).astype(np.float32)
    return ((found @ weight.T + bias) * unit).astype(np.float32)


@pytest.mark.parametrize("name", ["conv", "left", "head"])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@torch.no_grad()
def test_a_layer_computes_what_its_integers_do(name: str, dtype: str) -> None:
    plan = Plan(weights={name: channel_weight(weight_of(name))}, inputs={name: qparams_of(read_by()[name], dtype)})
    program = inserted(plan)
    expected = rest(name, torch.from_numpy(by_integers(name, plan)))
    assert torch.allclose(small.run(program, IMAGES), expected, atol=2e-5)
    assert float((expected - rest(name, getattr(MODULE, name)(read_by()[name]))).abs().max()) > 1e-3
    assert targets(program).count(QUANTIZE) == targets(program).count(DEQUANTIZE) == 1
    assert targets(program).count(DEQUANTIZE_CHANNELS) == 2


def test_integers_are_stored_under_the_names_of_the_module() -> None:
    plan = Plan(weights={"left": channel_weight(weight_of("left"))}, inputs={"left": qparams_of(read_by()["left"])})
    stored = inserted(plan).exported.state_dict
    types = {name.removeprefix("left."): tensor.dtype for name, tensor in stored.items() if name.startswith("left.")}
    assert types == {
        "weight": torch.int8,
        "weight_scale": torch.float32,
        "weight_zero_point": torch.int32,
        "bias": torch.int32,
        "bias_scale": torch.float32,
        "bias_zero_point": torch.int32,
    }
    assert torch.equal(stored["left.bias_scale"], plan.inputs["left"].scale * plan.weights["left"][1].scale)
    assert stored["right.weight"].dtype is torch.float32


def test_layers_that_read_one_value_share_one_rounding() -> None:
    qparams = qparams_of(read_by()["left"])
    both = {name: channel_weight(weight_of(name)) for name in ("left", "right")}
    program = inserted(Plan(weights=both, inputs={"left": qparams, "right": qparams}))
    assert targets(program).count(QUANTIZE) == 1
    (node,) = (node for node in program.exported.graph.nodes if node.target is DEQUANTIZE)
    assert [user.target for user in node.users] == [aten.linear.default] * 2
    other = Plan(weights=both, inputs={"left": qparams, "right": whole("uint16", float(qparams.scale) / 100)})
    assert targets(inserted(other)).count(QUANTIZE) == 2
    dynamic = inserted(Plan(weights=both, dynamic={"left", "right"}))
    assert targets(dynamic).count(CHOOSE) == 1


def test_a_bias_stays_in_float_where_it_has_to() -> None:
    weights = {"head": channel_weight(weight_of("head"))}
    fine = whole("uint8", 1e-9)  # 2 ** 31 steps do not reach the bias
    for plan in (
        Plan(weights=weights),
        Plan(weights=weights, inputs={"head": fine}),
        Plan(weights=weights, inputs={"head": whole("uint16", 1e-4)}),
        Plan(weights=weights, inputs={"head": whole("uint8", 1e-2)}, integer_biases=False),
    ):
        stored = inserted(plan).exported.state_dict
        assert torch.equal(stored["head.bias"], MODULE.head.bias)
        assert "head.bias_scale" not in stored


def test_a_dynamic_layer_rounds_as_dynamic_quantize_linear_does() -> None:
    weights = {"left": channel_weight(weight_of("left"))}
    program = inserted(Plan(weights=weights, dynamic={"left"}))
    values = read_by()["left"].numpy()
    low, high = min(values.min(), np.float32(0)), max(values.max(), np.float32(0))
    scale = (high - low) / np.float32(255)
    zero_point = np.clip(np.rint(-low / scale), 0, 255)
    rounded = (np.clip(np.rint(values / scale) + zero_point, 0, 255) - zero_point) * scale
    output = functional.linear(torch.from_numpy(rounded), fake_quantize(weight_of("left"), weights["left"][1]))
    assert torch.allclose(small.run(program, IMAGES), rest("left", output + MODULE.left.bias.detach()), atol=2e-5)
    assert operator.getitem in targets(program)


@pytest.mark.parametrize("block", [16, 32])
def test_a_weight_of_four_bits_has_a_scale_a_block(block: int) -> None:
    weights = {"right": block_weight(weight_of("right"), block)}
    program = inserted(Plan(weights=weights))
    assert targets(program).count(DEQUANTIZE_BLOCKS) == 1
    stored = program.exported.state_dict
    assert stored["right.weight_scale"].shape == (48, 32 // block)
    assert int(stored["right.weight"].abs().max()) == 7
    rounded = (stored["right.weight"].reshape(48, -1, block) * stored["right.weight_scale"][..., None]).reshape(48, 32)
    hidden = read_by()["right"]
    with torch.no_grad():
        output = functional.gelu(MODULE.left(hidden)) + functional.linear(hidden, rounded, MODULE.right.bias)
        expected = MODULE.head(output.mean(1))
    assert torch.allclose(small.run(program, IMAGES), expected, atol=2e-5)


def test_a_shift_with_its_bias_preserves_the_function() -> None:
    bias = MODULE.left.bias.detach() + 0.17 * weight_of("left").sum(1)
    program = inserted(Plan(tensors={"left.bias": bias}, shifts={"left": 0.17}))
    with torch.no_grad():
        assert torch.allclose(small.run(program, IMAGES), MODULE(IMAGES), atol=1e-5)
    assert targets(program).count(aten.sub.Tensor) == 1
    qparams = whole("int8", 0.02)
    rounded = inserted(Plan(tensors={"left.bias": bias}, shifts={"left": 0.17}, inputs={"left": qparams}))
    shifted = fake_quantize(read_by()["left"] - 0.17, qparams)
    assert torch.allclose(
        small.run(rounded, IMAGES), rest("left", functional.linear(shifted, weight_of("left"), bias)), atol=2e-5
    )


@pytest.mark.parametrize("options", [{"fused": True}, {"fused": True, "masked": True}, {"fused": False}])
@torch.no_grad()
def test_the_operands_of_both_products_of_an_attention_are_rounded(options: dict[str, bool]) -> None:
    module: Any = small.built(small.Heads, **options)
    qparams = {
        "query": whole("uint8", 0.01, 128),
        "key": whole("uint8", 0.05, 120),
        "probabilities": whole("uint8", 1 / 255),
        "value": whole("uint8", 0.04, 131),
    }
    program = inserted(Plan(attention={"": qparams}), kind=small.Heads, **options)
    qkv = module.qkv(IMAGES.mean(1)).reshape(3, 32, 3, 2, 16).permute(2, 0, 3, 1, 4)
    query, key, value = (fake_quantize(part, qparams[operand]) for part, operand in zip(
        (qkv[0] / 4, qkv[1], qkv[2]), ("query", "key", "value"), strict=True))  # fmt: skip
    scores = query @ key.mT if module.mask is None else query @ key.mT + module.mask
    result = fake_quantize(scores.softmax(-1), qparams["probabilities"]) @ value
    expected = module.proj(result.transpose(1, 2).reshape(3, 32, 32))
    assert float((expected - module(IMAGES)).abs().max()) > 1e-3
    # A probability within float32's rounding of a tie may fall otherwise; there are 6144 of them.
    assert float((small.run(program, IMAGES) - expected).abs().max()) < 5e-3
    assert float((small.run(program, IMAGES) - expected).abs().mean()) < 1e-5
    assert targets(program).count(QUANTIZE) == 4
    assert aten.scaled_dot_product_attention.default not in targets(program)


def test_an_attention_may_have_some_of_its_operands_rounded() -> None:
    program = inserted(Plan(attention={"": {"value": whole("int8", 0.05)}}), kind=small.Heads, fused=True)
    assert targets(program).count(QUANTIZE) == 1


def whole_plan() -> Plan:
    """Something of everything."""
    read = read_by()
    weights = {name: channel_weight(weight_of(name)) for name in ("conv", "left", "head")}
    weights["right"] = block_weight(weight_of("right"), 16)
    return Plan(
        tensors={"conv.bias": MODULE.conv.bias.detach() + 0.01},
        weights=weights,
        inputs={name: qparams_of(read[name]) for name in ("conv", "left", "right")},
        dynamic={"head"},
    )


def test_a_fixed_batch_and_a_file_give_the_same_numbers_as_a_dynamic_batch() -> None:
    plan = whole_plan()
    plan.dynamic.clear()  # a range over a batch is another one than over an image
    dynamic = inserted(plan)
    expected = small.run(dynamic, IMAGES)
    assert torch.equal(small.run(inserted(plan, batch=3), IMAGES), expected)
    single = inserted(plan, batch=1)
    alone = torch.cat([small.run(single, image[None]) for image in IMAGES])
    assert torch.allclose(alone, expected, atol=1e-6)
    file = io.BytesIO()
    torch.export.save(dynamic.exported, file)
    file.seek(0)
    loaded = torch.export.load(file)
    with torch.no_grad():
        assert torch.equal(loaded.module()(IMAGES), expected)
    assert [node.target for node in loaded.graph.nodes] == [node.target for node in dynamic.exported.graph.nodes]
    assert loaded.state_dict["left.weight"].dtype is torch.int8


def test_the_reference_and_the_plan_are_left_as_they_were() -> None:
    plan, before = whole_plan(), {name: tensor.clone() for name, tensor in MODULE.state_dict().items()}
    integers = plan.weights["left"][0].clone()
    shared = capture(MODULE, tiny.spec("vit"), ("conv",), batch="dynamic")
    quantized = insert(canonicalize(shared), plan)
    assert not torch.equal(small.run(quantized, IMAGES), small.run(inserted(Plan()), IMAGES))
    assert torch.equal(plan.weights["left"][0], integers)
    assert all(torch.equal(tensor, before[name]) for name, tensor in MODULE.state_dict().items())
    with torch.no_grad():
        assert torch.allclose(small.run(inserted(Plan()), IMAGES), MODULE(IMAGES), atol=1e-6)
