# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.vitedge.mlprogram.ops.agreement import (
    applied,
    assert_default,
    assert_inferred,
    assert_rounded_once,
    assert_stated,
    uniform,
)
from vitedge.mlprogram.ops.normalization import OPS, layer_norm

GENERATOR = np.random.default_rng(1)


def weights(*shape: int) -> np.ndarray:
    """Exact in float16, so that both precisions have the same."""
    return GENERATOR.integers(-12, 12, shape) / 8.0


LAYER_NORMS: tuple[tuple[tuple[int, ...], dict[str, Any]], ...] = (
    ((5,), {"axes": [0]}),
    ((2, 3, 4), {"axes": [0, 1, 2]}),
    ((2, 3, 4), {"axes": [-1]}),
    ((2, 3, 4), {"axes": [2], "epsilon": 0.125}),
    ((2, 3, 4), {"axes": [-1], "gamma": weights(4)}),
    ((2, 3, 4), {"axes": [-1], "gamma": weights(4), "beta": weights(4)}),
    ((2, 3, 4), {"axes": [1], "gamma": weights(3), "beta": weights(3)}),
    ((2, 3, 4), {"axes": [0, 2], "gamma": weights(2, 4), "beta": weights(2, 4), "epsilon": 0.5}),
    ((1, 2, 3, 4), {"axes": [2, 3], "gamma": weights(3, 4), "beta": weights(3, 4)}),
    ((1, 2, 3, 4), {"axes": [-1, -2], "gamma": weights(3, 4), "beta": weights(3, 4)}),
    ((1, 2, 3, 4), {"axes": [1, 2]}),
)
BY_CHANNEL: tuple[tuple[tuple[int, ...], dict[str, Any]], ...] = (
    ((2, 3, 4), {}),
    ((2, 3, 4), {"gamma": weights(3), "beta": weights(3)}),
    ((1, 3, 2, 5), {"gamma": weights(3)}),
    ((1, 3, 2, 5), {"beta": weights(3), "epsilon": 0.25}),
    ((2, 1, 2, 2, 3), {"gamma": weights(1), "beta": weights(1), "epsilon": 0.0}),
)
OPSETS = ("iOS16", "iOS17")


def test_every_operation_is_here() -> None:
    assert set(OPS) == {"batch_norm", "instance_norm", "l2_norm", "layer_norm", "local_response_norm"}


def assert_rounds(name: str, shape: tuple[int, ...], attributes: dict[str, Any], opset: str = "iOS16") -> None:
    half, single = (applied(name, dtype, **{"epsilon": 2**-16, **attributes}) for dtype in (np.float16, np.float32))
    assert_rounded_once(half, single, uniform(-5, 5, shape, dtype=np.float16), opset)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(("shape", "attributes"), LAYER_NORMS)
def test_layer_norm(shape: tuple[int, ...], attributes: dict[str, Any], opset: str) -> None:
    assert_inferred(applied("layer_norm", **attributes), uniform(-5, 5, shape), opset)
    assert_rounds("layer_norm", shape, attributes, opset)


def test_layer_norm_over_everything_by_default() -> None:
    """MIL says so, although coremltools' builder falls over it."""
    x = uniform(-5, 5, (2, 3))["x0"].astype(np.float64)
    expected = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    np.testing.assert_allclose(layer_norm(torch.from_numpy(x)).numpy(), expected)


def test_layer_norm_with_beta_alone() -> None:
    """MIL allows it, although coremltools' builder falls over it."""
    x, beta = torch.tensor([[1.0, -1.0]]), torch.tensor([2.0, 3.0])
    for axes in ([-1], [1]):
        found = layer_norm(x, torch.tensor(axes), beta=beta, epsilon=0.0)
        torch.testing.assert_close(found, torch.tensor([[3.0, 2.0]]))


def test_layer_norm_of_large_float16() -> None:
    """The squares of these have no float16, and are not needed in it."""
    x = np.array([[30000, -30000, 10000, 20000]], np.float16)
    wide = x.astype(np.float64)
    expected = (wide - wide.mean()) / wide.std()
    assert_stated(applied("layer_norm", axes=[-1], epsilon=np.float16(1e-5)), {"x": x}, expected, rtol=2**-11)


def test_layer_norm_with_parameters_of_their_own_type() -> None:
    """From iOS17 on gamma may be float32 where x is float16."""
    gamma = np.array([1.0004, 0.9996], np.float32)
    x = np.array([[1000.0, -1000.0]], np.float16)
    build = applied("layer_norm", axes=[-1], gamma=gamma * 1000)
    assert_stated(build, {"x": x}, np.array([[1000.4, -999.6]]), opset="iOS17", rtol=2**-11)


def by_channel(value: Any, x: np.ndarray) -> Any:
    return np.reshape(value, (1, -1, *(1,) * (x.ndim - 2)))


def standardized(x: np.ndarray, mean: Any, variance: Any, attributes: dict[str, Any]) -> np.ndarray:
    root = np.sqrt(variance + attributes.get("epsilon", 1e-5))
    gamma, beta = attributes.get("gamma", np.ones(1)), attributes.get("beta", np.zeros(1))
    return (x - mean) / root * by_channel(gamma, x) + by_channel(beta, x)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(("shape", "attributes"), BY_CHANNEL)
def test_batch_norm(shape: tuple[int, ...], attributes: dict[str, Any], opset: str) -> None:
    mean, variance = np.linspace(-1, 1, shape[1]), np.linspace(0.5, 2, shape[1])
    inputs = uniform(-5, 5, shape)
    x = inputs["x0"].astype(np.float64)
    expected = standardized(x, by_channel(mean, x), by_channel(variance, x), attributes)
    given = {"mean": mean, "variance": variance, **attributes}
    assert_stated(applied("batch_norm", **given), inputs, expected, opset=opset)
    assert_rounds("batch_norm", shape, given, opset)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(("shape", "attributes"), BY_CHANNEL)
def test_instance_norm(shape: tuple[int, ...], attributes: dict[str, Any], opset: str) -> None:
    inputs = uniform(-5, 5, shape)
    x = inputs["x0"].astype(np.float64)
    over = tuple(range(2, x.ndim))
    expected = standardized(x, x.mean(over, keepdims=True), x.var(over, keepdims=True), attributes)
    assert_stated(applied("instance_norm", **attributes), inputs, expected, opset=opset)
    assert_rounds("instance_norm", shape, attributes, opset)


def test_instance_norm_of_one_pixel_is_its_offset() -> None:
    beta = np.array([1.0, -2.0])
    expected = beta.reshape(1, 2, 1, 1)
    assert_stated(applied("instance_norm", beta=beta, gamma=beta), uniform(-5, 5, (1, 2, 1, 1)), expected)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("attributes", [{}, {"epsilon": 0.5}], ids=["default", "half"])
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 1), (2, 2, 1, 3, 2)], ids=str)
def test_l2_norm(shape: tuple[int, ...], attributes: dict[str, Any], opset: str) -> None:
    assert_inferred(applied("l2_norm", **attributes), uniform(-5, 5, shape), opset)
    assert_rounds("l2_norm", shape, attributes, opset)


def neighbours(x: np.ndarray, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> np.ndarray:
    """Local response normalization, channel by channel."""
    result = np.empty_like(x)
    for channel in range(x.shape[1]):
        first = channel - size // 2
        near = x[:, max(first, 0) : first + size]
        result[:, channel] = x[:, channel] / (k + alpha / size * (near**2).sum(1)) ** beta
    return result


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("attributes", [{}, {"alpha": 0.5, "beta": 0.25, "k": 2.0}], ids=["default", "given"])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_local_response_norm(size: int, attributes: dict[str, float], opset: str) -> None:
    inputs = uniform(-5, 5, (2, 5, 3), (1, 4, 2, 3))
    expected = (neighbours(x.astype(np.float64), size, **attributes) for x in inputs.values())
    assert_stated(applied("local_response_norm", size=size, **attributes), inputs, *expected, opset=opset)


def test_local_response_norm_of_float16() -> None:
    attributes = {"size": 3, "alpha": 0.5, "beta": 0.25, "k": 2.0}
    half, single = (applied("local_response_norm", dtype, **attributes) for dtype in (np.float16, np.float32))
    assert_rounded_once(half, single, uniform(-5, 5, (1, 4, 2, 3), dtype=np.float16))


@pytest.mark.parametrize("name", ["batch_norm", "instance_norm", "l2_norm", "layer_norm", "local_response_norm"])
def test_defaults_are_those_of_coremltools(name: str) -> None:
    """Values so small that epsilon decides."""
    required: dict[str, dict[str, Any]] = {
        "batch_norm": {"mean": np.full(3, 1e-3), "variance": np.full(3, 1e-6)},
        "layer_norm": {"axes": [-1]},
        "local_response_norm": {"size": 3},
    }
    scale = 300 if name == "local_response_norm" else 1e-3
    assert_default(name, uniform(-scale, scale, (2, 3, 4))["x0"], **required.get(name, {}))
