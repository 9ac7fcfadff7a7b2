# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.vitedge.mlprogram.mil import executed, inferred, program
from tests.vitedge.mlprogram.ops.test_shape import described, numbered, same
from vitedge.errors import UnreadableArtifact
from vitedge.mlprogram.interpreter import MLProgramInterpreter
from vitedge.mlprogram.ops.indexing import OPS

Shape = tuple[int, ...]
Parameters = dict[str, Any]

SLICES: list[tuple[Shape, Parameters]] = [
    ((5, 4), {"begin": (1, 0), "end": (4, 3)}),
    ((5, 4), {"begin": (-3, -4), "end": (-1, 4)}),
    ((5, 7), {"begin": (0, 1), "end": (5, 7), "stride": (2, 3)}),
    ((5, 7), {"begin": (4, 5), "end": (0, 1), "stride": (-1, -2)}),
    ((5, 7), {"begin": (0, 0), "end": (0, 0), "stride": (-2, 3), "begin_mask": (1, 1), "end_mask": (1, 1)}),
    ((5, 7), {"begin": (3, 2), "end": (1, 1), "stride": (-1, 2), "end_mask": (True, True)}),
    ((5, 7), {"begin": (9, 9), "end": (2, 5), "begin_mask": (True, True)}),
    ((3, 4, 5), {"begin": (1, 0, 2), "end": (0, 4, 0), "squeeze_mask": (True, False, True)}),
    ((3, 4, 5), {"begin": (-1, 1, 0), "end": (0, 3, 5), "squeeze_mask": (True, False, False)}),
    ((3, 4, 5), {"begin": (0, -1, 0), "end": (0, 0, 0), "end_mask": (1, 0, 1), "squeeze_mask": (0, 1, 0)}),
    ((3, 4), {"begin": (1, 2), "end": (0, 0), "squeeze_mask": (True, True)}),
    ((4, 2), {"begin": (2, 0), "end": (2, 2)}),
    ((4, 2), {"begin": (-9, 0), "end": (3, 9)}),
    ((4, 6), {"begin": (-1, -2), "end": (-4, -6), "stride": (-1, -3)}),
]


@pytest.mark.parametrize("opset", ["iOS16", "iOS18"])
@pytest.mark.parametrize(("shape", "selection"), SLICES, ids=map(described, SLICES))
def test_slice_by_index(shape: Shape, selection: Parameters, opset: str) -> None:
    def build(mb: Any, x: Any) -> Any:
        return mb.slice_by_index(x=x, **masked(selection))

    inputs = {"x": numbered(shape)}
    same(executed(build, inputs, opset), inferred(build, inputs, opset))


def masked(selection: Parameters) -> Parameters:
    """Masks may be written as numbers in the tables."""
    return {name: np.array(value, bool) if "mask" in name else value for name, value in selection.items()}


@pytest.mark.parametrize(("shape", "selection"), SLICES[:10], ids=map(described, SLICES[:10]))
def test_slice_update(shape: Shape, selection: Parameters) -> None:
    x = numbered(shape)
    chosen = inferred(lambda mb, x: mb.slice_by_index(x=x, **masked(selection)), {"x": x}, "iOS18")

    def build(mb: Any, x: Any, update: Any) -> Any:
        return mb.slice_update(x=x, update=update, **masked(selection))

    inputs = {"x": x, "update": -numbered(chosen.shape)}
    same(executed(build, inputs, "iOS18"), inferred(build, inputs, "iOS18"))


@pytest.mark.parametrize(
    ("shape", "begin", "size"),
    [((5, 4), (1, 0), (3, 2)), ((5, 4), (2, 1), (-1, 3)), ((3, 4, 5), (-2, 0, 4), (1, -1, 1)), ((6,), (-3,), (-1,))],
    ids=str,
)
@pytest.mark.parametrize("opset", ["iOS16", "iOS17"])
def test_slice_by_size(shape: Shape, begin: Shape, size: Shape, opset: str) -> None:
    x = numbered(shape)
    starts = [first % edge for first, edge in zip(begin, shape, strict=True)]
    stops = [edge if n < 0 else start + n for start, n, edge in zip(starts, size, shape, strict=True)]
    expected = x[tuple(slice(*ends) for ends in zip(starts, stops, strict=True))]
    begins = np.array(begin, np.int32)

    def build(mb: Any, x: Any, begin: Any) -> Any:
        return mb.slice_by_size(x=x, begin=begin, size=size)

    same(executed(build, {"x": x, "begin": begins}, opset), expected)


GATHERS: list[tuple[str, Shape, Any, Parameters, str]] = [
    ("gather", (5, 3), (4, 0, 0), {}, "iOS15"),
    ("gather", (5, 3), (2, -1), {"axis": 1}, "iOS16"),
    ("gather", (2, 5, 3), ((4, 1), (0, 2)), {"axis": 1}, "iOS16"),
    ("gather", (2, 5, 3), ((2, 0, 1),), {"axis": -1}, "iOS17"),
    ("gather", (2, 5, 3), ((4, 1), (0, 2)), {"axis": 1, "batch_dims": 1}, "iOS16"),
    ("gather", (2, 3, 5, 2), ((4, 1), (0, 2)), {"axis": 2, "batch_dims": 1}, "iOS17"),
    ("gather", (2, 2, 4, 3), (((3, 1, 0), (0, 2, 2)), ((1, 1, 0), (3, 3, 2))), {"axis": 2, "batch_dims": 2}, "iOS18"),
    ("gather", (4, 2), (3, 0), {"axis": 0, "validate_indices": True}, "iOS17"),
    ("gather_along_axis", (3, 2), ((2, 0), (1, 1), (0, 2)), {}, "iOS15"),
    ("gather_along_axis", (2, 4), ((3, -1, 0), (1, 0, -4)), {"axis": 1}, "iOS16"),
    ("gather_along_axis", (1, 2, 3), (((2, 1, 0, 0), (0, 0, 1, 2)),), {"axis": -1}, "iOS18"),
    ("gather_along_axis", (3, 1), ((2,),), {"axis": 0, "validate_indices": True}, "iOS17"),
]


@pytest.mark.parametrize(("kind", "shape", "indices", "parameters", "opset"), GATHERS, ids=map(described, GATHERS))
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_gathers(kind: str, shape: Shape, indices: Any, parameters: Parameters, opset: str, dtype: Any) -> None:
    def build(mb: Any, x: Any, indices: Any) -> Any:
        return getattr(mb, kind)(x=x, indices=indices, **parameters)

    inputs = {"x": numbered(shape, dtype), "indices": np.array(indices, np.int32)}
    opset = "iOS16" if opset == "iOS15" and dtype == np.float16 else opset  # no float16 input before
    same(executed(build, inputs, opset), inferred(build, inputs, opset))


def test_gather_of_one_index_leaves_the_axis_out() -> None:
    x = numbered((3, 4, 2))
    same(executed(lambda mb, x: mb.gather(x=x, indices=2, axis=1), {"x": x}), x[:, 2])


GATHERS_ND: list[tuple[Shape, Any, int]] = [
    ((3, 4), ((2, 3), (0, 0)), 0),
    ((3, 4, 2), ((2, 3), (0, 1), (-1, 0)), 0),
    ((3, 4), ((1,), (0,)), 0),
    ((2, 3, 4), (((2, 3),), ((0, 1),)), 1),
    ((2, 3, 4), (((2,), (0,)), ((1,), (1,))), 1),
]


@pytest.mark.parametrize(("shape", "indices", "batch_dims"), GATHERS_ND, ids=map(described, GATHERS_ND))
def test_gather_nd(shape: Shape, indices: Any, batch_dims: int) -> None:
    x, at = numbered(shape), np.array(indices, np.int32)
    rows = [x[place[:batch_dims]][tuple(at[place])] for place in np.ndindex(at.shape[:-1])]
    expected = np.array(rows).reshape(*at.shape[:-1], *x.shape[batch_dims + at.shape[-1] :])

    def build(mb: Any, x: Any, indices: Any) -> Any:
        return mb.gather_nd(x=x, indices=indices, batch_dims=batch_dims)

    same(executed(build, {"x": x, "indices": at}), expected)


def combined(mode: str, old: Any, new: Any) -> Any:
    """Returns the result of a scatter."""
    return {
        "update": lambda: new,
        "add": lambda: old + new,
        "sub": lambda: old - new,
        "mul": lambda: old * new,
        "div": lambda: old / new,
        "max": lambda: np.maximum(old, new),
        "min": lambda: np.minimum(old, new),
    }[mode]()


MODES = ("update", "add", "sub", "mul", "div", "max", "min")


def updates(shape: Shape) -> np.ndarray:
    return np.random.default_rng(7).uniform(0.5, 9, shape).astype(np.float32)


@pytest.mark.parametrize(("axis", "opset"), [(0, "iOS16"), (-1, "iOS17")])
@pytest.mark.parametrize("mode", MODES)
def test_scatter(mode: str, axis: int, opset: str) -> None:
    data, at = numbered((3, 4)), np.array([2, 0, 2], np.int32)
    new = updates((3, 4) if axis == 0 else (3, 3))
    expected = data.copy()
    for entry, index in enumerate(at):  # one index twice: the updates come one after the other
        place = index if axis == 0 else (slice(None), index)
        expected[place] = combined(mode, expected[place], np.take(new, entry, axis))

    def build(mb: Any, data: Any, indices: Any, updates: Any) -> Any:
        return mb.scatter(data=data, indices=indices, updates=updates, axis=axis, mode=mode)

    found = executed(build, {"data": data, "indices": at, "updates": new}, opset)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(("axis", "opset"), [(0, "iOS16"), (1, "iOS17"), (-1, "iOS18")])
@pytest.mark.parametrize("mode", MODES)
def test_scatter_along_axis(mode: str, axis: int, opset: str) -> None:
    data = numbered((2, 3, 4))
    shape = tuple(5 if place == axis % 3 else edge for place, edge in enumerate(data.shape))
    at = np.random.default_rng(1).integers(0, data.shape[axis], shape).astype(np.int32)
    new = updates(shape)
    expected = data.copy()
    for place in np.ndindex(*shape):
        there = list(place)
        there[axis] = at[place]
        expected[tuple(there)] = combined(mode, expected[tuple(there)], new[place])

    def build(mb: Any, data: Any, indices: Any, updates: Any) -> Any:
        return mb.scatter_along_axis(data=data, indices=indices, updates=updates, axis=axis, mode=mode)

    inputs = {"data": data, "indices": at, "updates": new}
    found = executed(build, inputs, opset)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    if mode == "update":  # coremltools' own inference takes every mode for this one
        same(found, inferred(build, inputs, opset))


@pytest.mark.parametrize("indices", [((1,), (0,), (1,)), ((1, 3), (0, 0), (1, -1)), (((2, 0, 1),),)], ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_scatter_nd(mode: str, indices: Any) -> None:
    data, at = numbered((3, 4, 2)), np.array(indices, np.int32)
    new = updates((*at.shape[:-1], *data.shape[at.shape[-1] :]))
    expected = data.copy()
    for place in np.ndindex(at.shape[:-1]):
        there = tuple(at[place])
        expected[there] = combined(mode, expected[there], new[place])

    def build(mb: Any, data: Any, indices: Any, updates: Any) -> Any:
        return mb.scatter_nd(data=data, indices=indices, updates=updates, mode=mode)

    np.testing.assert_allclose(executed(build, {"data": data, "indices": at, "updates": new}), expected, rtol=1e-6)


@pytest.mark.parametrize(("mode", "expected"), [("add", (10, -5, 13)), ("div", (10, -3, 2))])
def test_scatter_of_integers(mode: str, expected: Shape) -> None:
    data, at, new = np.array([[10, -7, 9]], np.int32), np.array([[1, 2]], np.int32), np.array([[2, 4]], np.int32)

    def build(mb: Any, data: Any, indices: Any, updates: Any) -> Any:
        return mb.scatter_along_axis(data=data, indices=indices, updates=updates, axis=1, mode=mode)

    same(executed(build, {"data": data, "indices": at, "updates": new}), np.array([expected]))


@pytest.mark.parametrize("mode", ["add", "mul", "div"])
def test_scatter_rounds_float16_once(mode: str) -> None:
    """Sixteen updates meet in one place, and only what comes of all of them is rounded."""
    data, new = numbered((99, 1), np.float16), (updates((99, 16)) / 9 + 0.6).astype(np.float16)
    expected = data[:, 0].astype(np.float64)
    for column in new.T.astype(np.float64):
        expected = combined(mode, expected, column)

    def build(mb: Any, data: Any, updates: Any) -> Any:
        return mb.scatter_along_axis(
            data=data, indices=np.zeros((99, 16), np.int32), updates=updates, axis=1, mode=mode
        )

    same(executed(build, {"data": data, "updates": new}, "iOS17"), expected.astype(np.float16)[:, None])


ONE_HOTS: list[tuple[Any, int, Parameters]] = [
    ((1, 0, 3), 4, {}),
    ((1, 0, 3), 4, {"axis": 0, "on_value": np.float32(2.5), "off_value": np.float32(-1)}),
    (((1, -1), (9, 2)), 3, {"axis": 1}),  # out of bounds: all off
    (((1, 0), (0, 2)), 3, {"axis": -2, "on_value": np.int32(7), "off_value": np.int32(3)}),
]


@pytest.mark.parametrize(("indices", "size", "parameters"), ONE_HOTS, ids=map(described, ONE_HOTS))
def test_one_hot(indices: Any, size: int, parameters: Parameters) -> None:
    at, on, off = np.array(indices, np.int32), parameters.get("on_value", 1), parameters.get("off_value", 0)
    hot = np.stack([np.where(at == index, on, off) for index in range(size)], parameters.get("axis", -1))

    def build(mb: Any, indices: Any) -> Any:
        return mb.one_hot(indices=indices, one_hot_vector_size=size, **parameters)

    same(executed(build, {"indices": at}), hot)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int32])
@pytest.mark.parametrize("shape", [(6,), (2, 3), (2, 1, 3)], ids=str)
def test_non_zero(shape: Shape, dtype: Any) -> None:
    x = (numbered(shape) % 3 - 1).astype(dtype)

    def build(mb: Any, x: Any) -> Any:
        return mb.non_zero(x=x)

    inputs = {"x": x}
    same(executed(build, inputs), inferred(build, inputs))


@pytest.mark.parametrize("opset", ["iOS15", "iOS16"])
@pytest.mark.parametrize("parameters", [{}, {"axis": 0}, {"axis": 1, "ascending": True}], ids=str)
def test_argsort(parameters: Parameters, opset: str) -> None:
    x = np.random.default_rng(3).permutation(24).reshape(4, 3, 2).astype(np.float32)

    def build(mb: Any, x: Any) -> Any:
        return mb.argsort(x=x, **parameters)

    same(executed(build, {"x": x}, opset), inferred(build, {"x": x}, opset))


TOPKS: list[tuple[Parameters, str]] = [
    ({}, "iOS15"),
    ({"k": 2, "axis": 1, "ascending": True}, "iOS15"),
    ({"k": 3, "axis": 0, "sort": True}, "iOS16"),
    ({"k": 2, "axis": -2, "return_indices": False}, "iOS16"),
    ({"k": 2, "axis": 0, "output_indices_dtype": "int32"}, "iOS17"),
]


@pytest.mark.parametrize(("parameters", "opset"), TOPKS, ids=map(described, TOPKS))
def test_topk(parameters: Parameters, opset: str) -> None:
    x = np.random.default_rng(4).permutation(24).reshape(4, 3, 2).astype(np.float32)

    def build(mb: Any, x: Any) -> Any:
        return mb.topk(x=x, **parameters)

    same(executed(build, {"x": x}, opset), inferred(build, {"x": x}, opset))


def test_topk_of_all() -> None:
    values, indices = OPS["topk"](torch.tensor([3, 1, 2]), k=torch.tensor(-1), ascending=torch.tensor(True))
    assert (values.tolist(), indices.tolist()) == ([1, 2, 3], [1, 2, 0])


BOXES = np.array([[(2, 2, 4, 4), (2, 2.5, 4, 4), (8, 8, 2, 2), (8, 8, 2, 2.5), (20, 1, 1, 1)]], np.float32)
SCORES = np.array([[(0.6, 0.1), (0.1, 0.9), (0.8, 0.2), (0.7, 0.3), (0.05, 0.02)]], np.float32)
SUPPRESSIONS: list[tuple[float, float, int, bool, list[int]]] = [
    # threshold of the overlap, of the score, boxes, whether per class, and what is selected
    (0.5, 0.0, 5, False, [1, 2, 4]),
    (0.5, 0.0, 5, True, [1, 2, 0, 4]),
    (0.5, 0.3, 3, False, [1, 2]),
    (0.99, 0.0, 2, False, [1, 2]),
    (0.99, 0.0, 5, False, [1, 2, 3, 0, 4]),
    (0.5, 0.95, 2, False, [1]),
]


@pytest.mark.parametrize(
    ("overlap", "score", "count", "per_class", "chosen"), SUPPRESSIONS, ids=map(described, SUPPRESSIONS)
)
def test_non_maximum_suppression(overlap: float, score: float, count: int, per_class: bool, chosen: list[int]) -> None:
    limits = {"iou_threshold": overlap, "max_boxes": count, "per_class_suppression": per_class}
    missing = count - len(chosen)
    boxes = np.concatenate([BOXES[:, chosen], np.zeros((1, missing, 4), np.float32)], 1)
    scores = np.concatenate([SCORES[:, chosen], np.zeros((1, missing, 2), np.float32)], 1)
    indices = np.array([chosen + [-1] * missing])

    def build(mb: Any, boxes: Any, scores: Any) -> Any:
        return mb.non_maximum_suppression(boxes=boxes, scores=scores, score_threshold=score, **limits)

    found = executed(build, {"boxes": BOXES, "scores": SCORES})
    same(found, (boxes, scores, indices, np.array([len(chosen)])))
    if score > 0:
        return

    def newer(mb: Any, boxes: Any, scores: Any) -> Any:
        return mb.non_maximum_suppression(boxes=boxes, scores=scores, **limits)

    found = executed(newer, {"boxes": BOXES.swapaxes(1, 2), "scores": SCORES.swapaxes(1, 2)}, "iOS17")
    same(found, (boxes.swapaxes(1, 2), scores.swapaxes(1, 2), indices))


X = torch.arange(12.0).reshape(3, 4)
OUTSIDE: list[tuple[str, Parameters]] = [
    ("gather", {"x": X, "indices": [3]}),
    ("gather", {"x": X, "indices": [-4]}),
    ("gather", {"x": X, "indices": [-1], "validate_indices": True}),
    ("gather", {"x": X, "indices": [0], "axis": 2}),
    ("gather", {"x": X, "indices": [[1 << 40]], "axis": 1, "batch_dims": 1}),
    ("gather", {"x": X, "indices": [[1]], "axis": 1, "batch_dims": 1}),
    ("gather_along_axis", {"x": X, "indices": [[4], [0], [0]], "axis": 1}),
    ("gather_along_axis", {"x": X, "indices": [[1]], "axis": 1}),
    ("gather_nd", {"x": X, "indices": [[0, 4]]}),
    ("gather_nd", {"x": X, "indices": [[-4, 0]]}),
    ("gather_nd", {"x": X, "indices": [[0, 0]], "batch_dims": 5}),
    ("scatter", {"data": X, "indices": [3], "updates": X[:1]}),
    ("scatter", {"data": X, "indices": [0], "updates": X[:1], "mode": "xor"}),
    ("scatter", {"data": X, "indices": [0], "updates": X[:1, :2]}),
    ("scatter_along_axis", {"data": X, "indices": [[9] * 4], "updates": X[:1]}),
    ("scatter_nd", {"data": X, "indices": [[0, -5]], "updates": [1.0], "mode": "update"}),
    ("slice_by_index", {"x": X, "begin": [3, 0], "end": [0, 4], "squeeze_mask": [True, False]}),
    ("slice_by_size", {"x": X, "begin": [1, 0], "size": [3, 4]}),
    ("slice_by_size", {"x": X, "begin": [0, 0], "size": [1, -2]}),
    ("one_hot", {"indices": [0], "one_hot_vector_size": 1 << 40}),
    ("one_hot", {"indices": [0], "one_hot_vector_size": -1}),
    ("topk", {"x": X, "largest": True}),
    ("non_maximum_suppression", {"boxes": X[None], "scores": X[None], "iou_threshold": 0.5, "max_boxes": 1 << 40}),
]


@pytest.mark.parametrize(("kind", "arguments"), OUTSIDE, ids=map(described, ((kind, list(a)) for kind, a in OUTSIDE)))
def test_what_is_out_of_bounds(kind: str, arguments: Parameters) -> None:
    values = {name: value if isinstance(value, str) else torch.as_tensor(value) for name, value in arguments.items()}
    with pytest.raises(UnreadableArtifact):
        OPS[kind](**values)


def test_an_index_of_a_program_that_is_out_of_bounds() -> None:
    """Not known before it runs: the operation is named, and nothing beyond the value is read."""
    x, at = numbered((3, 2)), np.array([1], np.int32)
    read = program(lambda mb, x, at: mb.gather(x=x, indices=at, axis=0), {"x": x, "at": at})
    with pytest.raises(UnreadableArtifact, match=r"gather .* out of the bounds of an axis of 3"):
        MLProgramInterpreter(read).run({"x": torch.from_numpy(x), "at": torch.tensor([7], dtype=torch.int32)})
