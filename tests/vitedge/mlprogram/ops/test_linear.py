# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.vitedge.mlprogram.mil import executed, inferred
from vitedge.errors import UnreadableArtifact
from vitedge.mlprogram.ops import linear as ops


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)])
def test_linear(shape, bias):
    x, weight, offset = random(*shape), random(4, 5, seed=1), random(4, seed=2)

    def build(mb, x):
        return mb.linear(x=x, weight=weight, bias=offset) if bias else mb.linear(x=x, weight=weight)

    np.testing.assert_allclose(executed(build, {"x": x}), inferred(build, {"x": x}), rtol=1e-5, atol=1e-6)


def test_linear_of_integers_is_exact():
    x, weight = np.arange(6, dtype=np.int32).reshape(2, 3), np.array([[7, -8, 9]], np.int32)

    def build(mb, x):
        return mb.linear(x=x, weight=weight, bias=np.array([2**24 + 1], np.int32))

    found = executed(build, {"x": x})
    np.testing.assert_array_equal(found, inferred(build, {"x": x}))
    assert found.dtype == np.int32


def test_linear_takes_weights_of_another_type():
    x, weight, bias = random(2, 3), random(4, 3, seed=1).astype(np.float16), random(4, seed=2).astype(np.float16)

    def build(mb, x):
        return mb.linear(x=x, weight=weight, bias=bias)

    stated = x @ weight.astype(np.float32).T + bias.astype(np.float32)
    np.testing.assert_allclose(executed(build, {"x": x}, "iOS17"), stated, rtol=1e-5, atol=1e-6)


def test_a_linear_of_float16_is_summed_in_float32_and_rounded_once():
    x, weight = random(2, 300).astype(np.float16), random(4, 300, seed=1).astype(np.float16)

    def build(mb, x):
        return mb.linear(x=x, weight=weight)

    found = executed(build, {"x": x})
    stated = (x.astype(np.float64) @ weight.astype(np.float64).T).astype(np.float16)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, stated, rtol=1e-3)  # a unit in the last place where float32 rounds to a tie


PRODUCTS = [
    ((2, 3), (3, 4), False, False),
    ((3, 2), (3, 4), True, False),
    ((2, 3), (4, 3), False, True),
    ((3, 2), (4, 3), True, True),
    ((5, 2, 3), (3, 4), False, False),
    ((2, 3), (5, 3, 4), False, False),
    ((10, 4, 3), (5, 10, 3, 2), False, False),
    ((1, 6, 2, 3), (5, 1, 4, 3), False, True),
    ((4,), (4, 3), False, False),
    ((4,), (3, 4), False, True),
]


@pytest.mark.parametrize(("left", "right", "transpose_x", "transpose_y"), PRODUCTS)
def test_matmul(left, right, transpose_x, transpose_y):
    inputs = {"x": random(*left), "y": random(*right, seed=1)}

    def build(mb, x, y):
        return mb.matmul(x=x, y=y, transpose_x=transpose_x, transpose_y=transpose_y)

    np.testing.assert_allclose(executed(build, inputs), inferred(build, inputs), rtol=1e-5, atol=1e-6)


def test_matmul_of_integers_is_exact():
    inputs = {"x": np.array([[2**24, 1]], np.int32), "y": np.array([[1], [1]], np.int32)}

    def build(mb, x, y):
        return mb.matmul(x=x, y=y)

    np.testing.assert_array_equal(executed(build, inputs), [[2**24 + 1]])


def test_matmul_takes_a_constant_of_another_type():
    x, y = random(2, 3), random(3, 4, seed=1).astype(np.float16)

    def build(mb, x):
        return mb.matmul(x=x, y=y)

    np.testing.assert_allclose(executed(build, {"x": x}, "iOS17"), x @ y.astype(np.float32), rtol=1e-5, atol=1e-6)


def test_a_vector_times_several_matrices_has_their_batch():
    # coremltools declares such a product to be (1, 3), against its own documentation.
    x, y = random(4), random(10, 4, 3, seed=1)
    found = ops.matmul(torch.from_numpy(x), torch.from_numpy(y))
    np.testing.assert_allclose(found, np.einsum("a,nab->nb", x, y), rtol=1e-5, atol=1e-6)


def test_a_vector_is_not_transposed():
    found = ops.matmul(torch.arange(3.0), torch.arange(3.0), torch.tensor(True), torch.tensor(True))
    assert found.item() == 5


def test_a_product_that_takes_all_memory_is_refused():
    tall, wide = torch.zeros(1).expand(2**20, 1), torch.zeros(1).expand(1, 2**20)
    with pytest.raises(UnreadableArtifact, match="which no model has"):
        ops.matmul(tall, wide)
    with pytest.raises(UnreadableArtifact, match="which no model has"):
        ops.einsum([tall, wide], "ab,bc->ac")


EQUATIONS = [
    ("nchw,nwhu->nchu", (2, 3, 4, 5), (2, 5, 4, 6)),
    ("abcd,adce->abce", (2, 3, 1, 5), (2, 5, 4, 6)),
    ("nchw,nwhu->nchu", (1, 3, 4, 5), (2, 5, 1, 6)),
    ("chw,whr->chr", (3, 4, 5), (5, 4, 6)),
    ("chw,whr->chr", (3, 4, 5), (5, 1, 6)),
]


@pytest.mark.parametrize(("equation", "left", "right"), EQUATIONS)
def test_einsum(equation, left, right):
    inputs = {"x": random(*left), "y": random(*right, seed=1)}

    def build(mb, x, y):
        return mb.einsum(values=(x, y), equation=equation)

    stated = (np.moveaxis(inputs["x"], -2, -3) @ np.moveaxis(inputs["y"], -2, -3)).swapaxes(-2, -3)
    np.testing.assert_allclose(executed(build, inputs), stated, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("equation", "said"),
    [("ab,bc", "is not one of 2 values"), ("ab->a", "is not one of 2 values"), ("abc,bc->a", "does not fit")],
)
def test_an_equation_that_does_not_fit_is_refused(equation, said):
    with pytest.raises(UnreadableArtifact, match=said):
        ops.einsum([torch.zeros(2, 3), torch.zeros(3, 2)], equation)


MASKS = {
    "none": None,
    "bools": np.arange(42).reshape(6, 7) % 3 != 0,
    "bools of a head": (np.arange(2 * 3 * 42).reshape(2, 3, 6, 7) % 5 != 0),
    "numbers": random(6, 7, seed=3),
    "numbers, broadcast": random(1, 1, 7, seed=4),
    "numbers that leave a key out": np.where(np.arange(7) == 2, -np.inf, 0).astype(np.float32)[None],
}


@pytest.mark.parametrize("mask", MASKS)
def test_scaled_dot_product_attention(mask):
    inputs = {"q": random(2, 3, 6, 4), "k": random(2, 3, 7, 4, seed=1), "v": random(2, 3, 7, 5, seed=2)}
    attn_mask = MASKS[mask]

    def build(mb, q, k, v):
        masked = {} if attn_mask is None else {"attn_mask": attn_mask}
        return mb.scaled_dot_product_attention(query=q, key=k, value=v, **masked)

    np.testing.assert_allclose(executed(build, inputs, "iOS18"), inferred(build, inputs, "iOS18"), rtol=1e-5, atol=1e-6)


def test_attention_without_heads():
    inputs = {"q": random(2, 6, 4), "k": random(2, 7, 4, seed=1), "v": random(2, 7, 5, seed=2)}

    def build(mb, q, k, v):
        return mb.scaled_dot_product_attention(query=q, key=k, value=v)

    np.testing.assert_allclose(executed(build, inputs, "iOS18"), inferred(build, inputs, "iOS18"), rtol=1e-5, atol=1e-6)


def test_a_query_that_attends_to_nothing_is_nan_as_mil_states_it():
    inputs = {"q": random(1, 2, 4), "k": random(1, 3, 4, seed=1), "v": random(1, 3, 4, seed=2)}
    attn_mask = np.array([[True, True, False], [False, False, False]])

    def build(mb, q, k, v):
        return mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=attn_mask)

    found = executed(build, inputs, "iOS18")
    assert np.isfinite(found[0, 0]).all()
    assert np.isnan(found[0, 1]).all()
