# SPDX-License-Identifier: Apache-2.0
"""Tests of `merge_transpositions`, `merge_reshapes`, `add_before_transposition` and `movement`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from vitedge.export.onnx.passes.add_before_transposition import add_before_transposition
from vitedge.export.onnx.passes.graph import Graph
from vitedge.export.onnx.passes.merge_reshapes import merge_reshapes
from vitedge.export.onnx.passes.merge_transpositions import merge_transpositions

OPSET = 18
Edges = list[int | None]
Step = tuple[str, list[int]]
"""``Reshape`` to a shape, in which -1 is the edge of the batch, or ``Transpose`` by an order."""


def chain(start: Sequence[int | None], steps: Sequence[Step], added: np.ndarray | None = None) -> onnx.ModelProto:
    """A model that moves its input step by step, and adds a constant before the last step."""
    nodes, constants, value = [], [], "x"
    for index, (kind, numbers) in enumerate(steps):
        if added is not None and index == len(steps) - 1:
            constants.append(numpy_helper.from_array(added, "added"))
            nodes.append(helper.make_node("Add", [value, "added"], ["sum"]))
            value = "sum"
        name = f"v{index}"
        if kind == "Reshape":
            constants.append(numpy_helper.from_array(np.array(numbers, np.int64), f"shape{index}"))
            nodes.append(helper.make_node("Reshape", [value, f"shape{index}"], [name]))
        else:
            nodes.append(helper.make_node("Transpose", [value], [name], perm=numbers))
        value = name
    edges = ["N" if edge is None else edge for edge in start]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, edges)
    result = helper.make_tensor_value_info(value, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "chain", [given], [result], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def rewritten(model: onnx.ModelProto, *passes: ir.passes.PassBase) -> onnx.ModelProto:
    graph = Graph(ir.from_proto(model), frozenset())
    graph.run(passes)
    return ir.to_proto(graph.model)


def count(model: onnx.ModelProto, kind: str) -> int:
    return sum(node.op_type == kind for node in model.graph.node)


def outputs(model: onnx.ModelProto, start: Sequence[int | None], batch: int) -> np.ndarray:
    shape = [batch if edge is None else edge for edge in start]
    value = np.arange(prod(shape), dtype=np.float32).reshape(shape)
    return ReferenceEvaluator(model).run(None, {"x": value})[0]


def random_chain(random: np.random.Generator, start: Edges, length: int) -> list[Step]:
    """Steps that are valid for any batch, as windows, patches and heads are made: edges are merged, split, turned."""
    edges: list[list[int | None]] = [[edge] for edge in start]  # of each edge, what it was merged of
    steps: list[Step] = []
    for _ in range(length):
        if random.random() < 0.5:
            order = random.permutation(len(edges)).tolist()
            edges = [edges[axis] for axis in order]
            steps.append(("Transpose", order))
            continue
        edges = regrouped(random, edges)
        steps.append(("Reshape", [-1 if None in edge else prod(filter(None, edge)) for edge in edges]))
    return steps


def regrouped(random: np.random.Generator, edges: list[list[int | None]]) -> list[list[int | None]]:
    """The same factors in the same order, some of them split, dealt out to other edges."""
    factors: list[int | None] = []
    for factor in (factor for edge in edges for factor in edge):
        divisors = [] if factor is None else [number for number in range(2, factor) if factor % number == 0]
        if factor is not None and divisors and random.random() < 0.3:
            divisor = int(random.choice(divisors))
            factors += [divisor, factor // divisor]
        else:
            factors.append(factor)
    cuts = [position for position in range(1, len(factors)) if random.random() < 0.6]
    bounds = [0, *cuts, len(factors)]
    return [factors[low:high] for low, high in pairwise(bounds)]


@pytest.mark.parametrize("batch", [3, None])
def test_any_movement_is_one_transposition_at_most(batch: int | None) -> None:
    random = np.random.default_rng(0)
    start: Edges = [batch, 4, 1, 6]
    merged = 0
    for _ in range(200):
        model = chain(start, random_chain(random, start, 6))
        found = rewritten(model, merge_reshapes, merge_transpositions, merge_reshapes)
        onnx.checker.check_model(found, full_check=True)
        for size in (batch,) if batch else (1, 5):
            np.testing.assert_array_equal(outputs(found, start, size), outputs(model, start, size))
        assert count(found, "Transpose") <= 1
        merged += count(model, "Transpose") > 1
    assert merged > 100


def test_a_reshape_that_tears_edges_apart_keeps_its_transpositions() -> None:
    model = chain([2, 6], [("Transpose", [1, 0]), ("Reshape", [4, 3]), ("Transpose", [1, 0])])
    found = rewritten(model, merge_transpositions)
    assert count(found, "Transpose") == 2
    np.testing.assert_array_equal(outputs(found, [2, 6], 1), outputs(model, [2, 6], 1))


@pytest.mark.parametrize("shape", [(1, 4, 6), (4, 6), (6,), (4, 1), ()])
def test_a_constant_is_added_before_tokens_are_turned(shape: tuple[int, ...]) -> None:
    added = np.arange(prod(shape), dtype=np.float32).reshape(shape)
    start: Edges = [None, 6, 4]
    model = chain(start, [("Transpose", [0, 2, 1]), ("Transpose", [0, 2, 1])], added)
    found = rewritten(model, add_before_transposition, merge_transpositions)
    assert count(found, "Transpose") == 0
    np.testing.assert_array_equal(outputs(found, start, 2), outputs(model, start, 2))
