# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.vitedge.mlprogram.mil import executed
from tests.vitedge.mlprogram.ops.agreement import (
    applied,
    assert_default,
    assert_inferred,
    assert_rounded_once,
    assert_stated,
    uniform,
)
from vitedge.errors import UnreadableArtifact
from vitedge.mlprogram.ops.activation import OPS, gelu

SHAPES = ((5,), (2, 3), (1, 2, 3, 4))
CHANNELS = ((2, 3, 4, 5), (1, 3, 2, 2))

ACTIVATIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("clamped_relu", {"alpha": 0.25, "beta": 2.0}),
    ("clamped_relu", {"alpha": -1.5, "beta": 0.5}),
    ("elu", {"alpha": 1.0}),
    ("elu", {"alpha": 0.375}),
    ("gelu", {}),
    ("gelu", {"mode": "EXACT"}),
    ("gelu", {"mode": "TANH_APPROXIMATION"}),
    ("gelu", {"mode": "SIGMOID_APPROXIMATION"}),
    ("leaky_relu", {"alpha": 0.125}),
    ("leaky_relu", {"alpha": -2.0}),
    ("linear_activation", {"alpha": 1.5, "beta": -0.25}),
    ("relu", {}),
    ("relu6", {}),
    ("scaled_tanh", {"alpha": 1.75, "beta": 0.625}),
    ("sigmoid", {}),
    ("sigmoid_hard", {"alpha": 0.25, "beta": 0.5}),
    ("softplus", {}),
    ("softsign", {}),
    ("thresholded_relu", {"alpha": 0.5}),
    ("thresholded_relu", {"alpha": -1.0}),
    ("thresholded_relu", {"alpha": -8.0}),  # which is among the values
)
BY_CHANNEL: tuple[tuple[str, dict[str, Any], tuple[tuple[int, ...], ...]], ...] = (
    ("prelu", {"alpha": np.array([0.25, -1.0, 2.0])}, CHANNELS),
    ("prelu", {"alpha": np.array([0.25, 0.25])}, ((3, 2, 4), (1, 2, 1), (1, 2, 2, 3, 2))),
    ("softplus_parametric", {"alpha": np.array([0.5, 1, -2]), "beta": np.array([1, -0.25, 2])}, CHANNELS),
    ("softplus_parametric", {"alpha": np.array([0.5, 1]), "beta": np.array([1.5, 3])}, ((3, 2, 4), (1, 2, 2, 3, 2))),
)


def test_every_operation_is_here() -> None:
    assert {name for name, *_ in (*ACTIVATIONS, *BY_CHANNEL)} | {"silu", "softmax"} == set(OPS)


@pytest.mark.parametrize("opset", ["iOS16", "iOS17"])
@pytest.mark.parametrize(("name", "attributes"), ACTIVATIONS)
def test_activation(name: str, attributes: dict[str, Any], opset: str) -> None:
    assert_inferred(applied(name, **attributes), uniform(-8, 8, *SHAPES), opset)


@pytest.mark.parametrize(("name", "attributes"), ACTIVATIONS)
def test_activation_of_float16(name: str, attributes: dict[str, Any]) -> None:
    half, single = (applied(name, dtype, **attributes) for dtype in (np.float16, np.float32))
    assert_rounded_once(half, single, uniform(-8, 8, *SHAPES, dtype=np.float16))


@pytest.mark.parametrize("opset", ["iOS16", "iOS17"])
@pytest.mark.parametrize(("name", "attributes", "shapes"), BY_CHANNEL)
def test_activation_by_channel(
    name: str, attributes: dict[str, Any], shapes: tuple[tuple[int, ...], ...], opset: str
) -> None:
    assert_inferred(applied(name, **attributes), uniform(-8, 8, *shapes), opset)
    half, single = (applied(name, dtype, **attributes) for dtype in (np.float16, np.float32))
    assert_rounded_once(half, single, uniform(-8, 8, *shapes, dtype=np.float16), opset)


@pytest.mark.parametrize("name", ["gelu", "softmax"])
def test_defaults_are_those_of_coremltools(name: str) -> None:
    assert_default(name, uniform(-4, 4, (2, 3, 4))["x0"])


@pytest.mark.parametrize("opset", ["iOS16", "iOS18"])
def test_silu(opset: str) -> None:
    inputs = uniform(-8, 8, *SHAPES)
    expected = (x / (1 + np.exp(-x.astype(np.float64))) for x in inputs.values())
    assert_stated(applied("silu"), inputs, *expected, opset=opset)
    assert_rounded_once(applied("silu"), applied("silu"), uniform(-8, 8, *SHAPES, dtype=np.float16), opset)


@pytest.mark.parametrize(("shape", "axis"), [((5,), 0), ((2, 3), 0), ((2, 3), -1), ((1, 2, 3, 4), 1), ((2, 3, 4), -2)])
def test_softmax(shape: tuple[int, ...], axis: int) -> None:
    assert_inferred(applied("softmax", axis=axis), uniform(-8, 8, shape))
    assert_inferred(applied("softmax"), uniform(80, 100, shape))  # without overflow, and along the last axis
    assert_rounded_once(
        applied("softmax", axis=axis), applied("softmax", axis=axis), uniform(-8, 8, shape, dtype=np.float16)
    )


def test_a_float32_alpha_of_a_float16_value() -> None:
    """From iOS17 on they may have different types, and float16 would round this alpha to 1."""
    x = np.array([-1000.0, 1000.0], np.float16)
    assert_stated(applied("leaky_relu", alpha=1.0004), {"x": x}, np.array([-1000.4, 1000.0]), opset="iOS17", rtol=0)
    assert executed(applied("leaky_relu", alpha=1.0004), {"x": x}, "iOS17")[0] == np.float16(-1000.5)


def test_the_exact_gelu_is_not_its_approximation() -> None:
    """They are up to 5e-4 apart, which a whole model shrinks to what parity has to see."""
    x = uniform(-4, 4, (1000,))
    exact, approximate = (executed(applied("gelu", mode=mode), x) for mode in ("EXACT", "TANH_APPROXIMATION"))
    assert 3e-4 < np.abs(exact - approximate).max() < 6e-4


def test_an_unknown_mode() -> None:
    with pytest.raises(UnreadableArtifact, match="'ROUGH' of gelu"):
        gelu(torch.zeros(2), "ROUGH")


def test_large_values_do_not_overflow() -> None:
    x = {"x": np.array([-60000, -200, 0, 200, 60000], np.float16)}
    wide = x["x"].astype(np.float64)
    for name, expected in {
        "softplus": np.maximum(wide, 0) + np.where(wide == 0, np.log(2), 0),
        "silu": np.maximum(wide, 0),
        "gelu": np.maximum(wide, 0),
        "sigmoid": np.where(wide == 0, 0.5, wide > 0),
        "softsign": wide / (1 + abs(wide)),
    }.items():
        assert_stated(applied(name), x, expected, rtol=2**-11)


@pytest.mark.parametrize(("name", "attributes"), [*ACTIVATIONS, ("silu", {}), ("softmax", {})])
def test_not_a_number_is_not_hidden(name: str, attributes: dict[str, Any]) -> None:
    assert np.isnan(executed(applied(name, **attributes), {"x": np.full((1, 2), np.nan, np.float32)})).all()
