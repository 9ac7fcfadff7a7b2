# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.vitedge.mlprogram.mil import executed, inferred, materialized
from vitedge.errors import UnreadableArtifact
from vitedge.mlprogram.ops.quantization import dequantize, quantize

SHAPE = (2, 3, 4, 5)
RNG = np.random.default_rng(0)
X = (RNG.normal(size=SHAPE) * 200).astype(np.float32)
SCALES = {
    None: np.float32(0.37),
    1: np.array([0.1, 0.7, 1.3], np.float32),
    -1: np.linspace(0.2, 2, 5, dtype=np.float32),
}
"""By axis."""
UNUSED = {"unused": np.zeros(1, np.float32)}


def zero_point(axis: int | None, dtype: str, given: bool):
    if not given:
        return {}
    low = -9 if dtype == "int8" else 3
    value = np.arange(low, low + SCALES[axis].size).astype(dtype)
    return {"zero_point": value.reshape(SCALES[axis].shape) if axis is not None else value[0]}


def parameters(axis: int | None, dtype: str, given: bool) -> dict:
    along = {} if axis is None else {"axis": np.int32(axis)}
    return {"scale": SCALES[axis], **zero_point(axis, dtype, given), **along}


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("axis", SCALES)
def test_quantize(axis: int | None, dtype: str, given: bool) -> None:
    def build(mb, x):
        return mb.quantize(input=x, output_dtype=dtype, **parameters(axis, dtype, given))

    expected = inferred(build, {"x": X}, "iOS17")
    found = executed(build, {"x": X}, "iOS17")
    np.testing.assert_array_equal(found, expected)
    limits = np.iinfo(dtype)
    assert (found.min(), found.max()) == (limits.min, limits.max), "nothing is out of range"


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("floats", ["float32", "float16"])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("axis", SCALES)
def test_dequantize(axis: int | None, dtype: str, floats: str, given: bool) -> None:
    limits = np.iinfo(dtype)
    levels = RNG.integers(limits.min, limits.max + 1, SHAPE).astype(dtype)

    def build(mb, unused=None):
        bound = parameters(axis, dtype, given)
        return mb.dequantize(input=levels, **{**bound, "scale": bound["scale"].astype(floats)})

    expected = materialized(build, "iOS17")
    found = executed(build, UNUSED, "iOS17")
    assert found.dtype == expected.dtype == np.dtype(floats)
    np.testing.assert_array_equal(found, expected)


def test_halves_go_to_the_even_level() -> None:
    def build(mb, x):
        return mb.quantize(input=x, scale=np.float32(1), output_dtype="int8")

    x = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 126.5, 127.5, -128.5], np.float32)
    np.testing.assert_array_equal(executed(build, {"x": x}, "iOS17"), [-2, -2, 0, 0, 2, 2, 126, 127, -128])


def test_float16_is_rounded_once() -> None:
    x, scale = (RNG.normal(size=4000) * 3).astype(np.float16), np.float16(0.0625 * 1.1)

    def build(mb, x):
        return mb.quantize(input=x, scale=scale, output_dtype="int8")

    found = executed(build, {"x": x}, "iOS17")
    np.testing.assert_array_equal(found, np.clip(np.rint(np.float32(x) / np.float32(scale)), -128, 127))
    # coremltools rounds the quotient to float16 first.
    apart = found.astype(int) - inferred(build, {"x": x}, "iOS17")
    assert 0 < np.count_nonzero(apart) < 0.02 * len(x)
    assert np.abs(apart).max() == 1


@pytest.mark.parametrize(
    ("bound", "said"),
    [
        ({"scale": torch.ones(3)}, "have no axis to lie along"),
        ({"scale": torch.ones(3), "axis": torch.tensor(2)}, "have no axis to lie along"),
        ({"scale": torch.ones(1, 3), "axis": torch.tensor(1)}, "have no axis to lie along"),
        ({"scale": torch.ones(3), "axis": torch.tensor(0)}, "Axis 0 has 2 channels and 3 scales"),
        (
            {"scale": torch.ones(()), "zero_point": torch.zeros(4), "axis": torch.tensor(1)},
            "3 channels and 4",
        ),
    ],
)
def test_parameters_that_do_not_fit(bound: dict, said: str) -> None:
    with pytest.raises(UnreadableArtifact, match=said):
        dequantize(torch.zeros(2, 3, dtype=torch.int8), **bound)
    with pytest.raises(UnreadableArtifact, match=said):
        quantize(torch.zeros(2, 3), output_dtype="int8", **bound)


@pytest.mark.parametrize("dtype", ["int32", "int3"])
def test_there_are_two_quantized_types(dtype: str) -> None:
    with pytest.raises(UnreadableArtifact, match=f"{dtype}"):
        quantize(torch.zeros(2), torch.ones(()), dtype)
