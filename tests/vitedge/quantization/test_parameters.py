# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed
from torch import Tensor

from vitedge.quantization.parameters import ENDS, QuantizationParameters, dequantize, fake_quantize, quantize

decomposed = torch.ops.quantized_decomposed
KINDS = ("uint8", "int8", "uint16", "int16")
ZERO_POINTS = {"uint8": 3, "int8": 0, "int4": 0, "uint16": 1234, "int16": 0}


def noise(*shape: int) -> Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(2))


def whole(dtype: str, scale: float, zero_point: int = 0) -> QuantizationParameters:
    return QuantizationParameters(dtype, torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32))


def channels(dtype: str, scale: Tensor, axis: int = 0) -> QuantizationParameters:
    return QuantizationParameters(dtype, scale, torch.full(scale.shape, ZERO_POINTS[dtype], dtype=torch.int32), axis)


@pytest.mark.parametrize("dtype", KINDS)
def test_a_scale_for_the_tensor_computes_what_pytorch_computes_bit_for_bit(dtype: str) -> None:
    values = noise(1 << 15)
    for reach in (0.7, 3.0, 9.1):  # that clamps, and that clamps nothing
        qparams = whole(dtype, float(torch.tensor(reach / ENDS[dtype][1])), ZERO_POINTS[dtype])
        arguments = (float(qparams.scale), int(qparams.zero_point), *qparams.ends, qparams.storage)
        expected = decomposed.quantize_per_tensor(values, *arguments)
        assert torch.equal(quantize(values, qparams), expected)
        assert torch.equal(fake_quantize(values, qparams), decomposed.dequantize_per_tensor(expected, *arguments))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_a_scale_a_channel_computes_what_pytorch_computes_bit_for_bit(dtype: str, axis: int) -> None:
    values = noise(48, 40, 3, 3)
    scale = values.movedim(axis, 0).flatten(1).abs().amax(1) / ENDS[dtype][1]
    qparams = channels(dtype, scale, axis)
    arguments = (qparams.scale, qparams.zero_point, axis, *qparams.ends, qparams.storage)
    expected = decomposed.quantize_per_channel(values, *arguments)
    assert torch.equal(quantize(values, qparams), expected)
    assert torch.equal(dequantize(expected, qparams), decomposed.dequantize_per_channel(expected, *arguments))


@pytest.mark.parametrize("block", [16, 32])
def test_a_scale_a_block_computes_what_pytorch_computes_bit_for_bit(block: int) -> None:
    values = noise(24, 96)
    scale = values.reshape(24, -1, block).abs().amax(2) / 8
    qparams = QuantizationParameters("int4", scale, torch.zeros(scale.shape, dtype=torch.int32), axis=0, block=block)
    arguments = (qparams.scale, qparams.zero_point, *qparams.ends, qparams.storage, block)
    expected = decomposed.quantize_per_channel_group(values, *arguments)
    assert torch.equal(quantize(values, qparams), expected)
    real = decomposed.dequantize_per_channel_group(expected, *arguments, torch.float32)
    assert torch.equal(dequantize(expected, qparams), real)


def test_the_last_block_of_a_row_may_be_short() -> None:
    scale = torch.tensor([[1.0, 0.5]])
    qparams = QuantizationParameters("int4", scale, torch.zeros(1, 2, dtype=torch.int32), axis=0, block=4)
    integers = quantize(torch.full((1, 6), 2.0), qparams)
    assert integers.tolist() == [[2, 2, 2, 2, 4, 4]]
    assert dequantize(integers, qparams).tolist() == [[2.0] * 6]


@pytest.mark.parametrize("dtype", ENDS)
def test_integers_stay_within_their_ends_and_reach_them(dtype: str) -> None:
    low, high = ENDS[dtype]
    qparams = whole(dtype, 1.0, ZERO_POINTS.get(dtype, 0))
    integers = quantize(torch.tensor([-4e9, 4e9]), qparams)
    assert integers.dtype == qparams.storage
    assert torch.iinfo(qparams.storage).min <= low < high <= torch.iinfo(qparams.storage).max
    if dtype != "int32":  # whose ends float32 does not hold
        assert integers.tolist() == [low, high]


def test_ties_go_to_the_even_integer() -> None:
    ties = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    assert quantize(ties, whole("int8", 1.0)).tolist() == [-2, -2, 0, 0, 2, 2]
    # The zero point is added after rounding, so that it does not decide which integer is even.
    assert quantize(ties, whole("uint8", 1.0, 3)).tolist() == [1, 1, 3, 3, 5, 5]


@pytest.mark.parametrize("dtype", [*KINDS, "int4"])
def test_zero_is_represented_exactly_and_what_is_rounded_stays(dtype: str) -> None:
    scale = torch.rand(64, generator=torch.Generator().manual_seed(0)) + 1e-3
    qparams = channels(dtype, scale)
    assert fake_quantize(torch.zeros(64, 5), qparams).abs().max() == 0
    once = fake_quantize(noise(64, 50), qparams)
    assert torch.equal(fake_quantize(once, qparams), once)


def test_an_error_is_at_most_half_a_step_where_nothing_is_clamped() -> None:
    values = noise(1 << 14)
    qparams = whole("int8", float(values.abs().max()) / 127)
    assert float((fake_quantize(values, qparams) - values).abs().max()) <= float(qparams.scale) / 2 * (1 + 1e-5)
