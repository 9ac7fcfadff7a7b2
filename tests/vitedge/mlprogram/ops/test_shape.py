# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.vitedge.mlprogram.mil import executed, inferred
from vitedge.errors import UnreadableArtifact
from vitedge.mlprogram.interpreter import COMPUTE
from vitedge.mlprogram.ops.shape import OPS

Shape = tuple[int, ...]


def numbered(shape: Shape, dtype: Any = np.float32) -> np.ndarray:
    """Elements that are all different, so that none can take the place of another unseen."""
    return (np.arange(np.prod(shape)).reshape(shape) + 1).astype(dtype)


def same(found: Any, expected: Any) -> None:
    """Movement is exact, and keeps the type of the elements."""
    found = found if isinstance(found, tuple) else (found,)
    expected = expected if isinstance(expected, tuple) else (expected,)
    assert [value.shape for value in found] == [np.shape(value) for value in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


INFERRED: list[tuple[str, Shape, dict[str, Any], str]] = [
    # operation, shape of x, other parameters, opset
    ("identity", (2, 3), {}, "iOS16"),
    ("reshape", (2, 3, 4), {"shape": (6, 4)}, "iOS16"),
    ("reshape", (2, 3, 4), {"shape": (4, -1, 3)}, "iOS16"),
    ("reshape", (2, 3, 4), {"shape": (0, -1, 1)}, "iOS16"),
    ("reshape", (2, 3, 4), {"shape": (1, 0, 0, 0)}, "iOS17"),
    ("reshape", (2, 50), {"shape": (1, 0, -1, 0)}, "iOS17"),
    ("reshape", (2, 3, 4), {"shape": (2, 0, 4)}, "iOS17"),
    ("reshape", (6, 4), {"shape": (-1, 0)}, "iOS18"),
    ("transpose", (2, 3), {"perm": (1, 0)}, "iOS16"),
    ("transpose", (2, 3, 4, 5), {"perm": (0, 2, 3, 1)}, "iOS16"),
    ("transpose", (2, 3, 4), {"perm": (-1, 0, -2)}, "iOS16"),
    ("transpose", (1, 2, 3, 4, 5), {"perm": (4, 1, 3, 0, 2)}, "iOS18"),
    ("squeeze", (1, 3, 1, 2), {}, "iOS16"),
    ("squeeze", (1, 3, 1, 2), {"axes": (0,)}, "iOS16"),
    ("squeeze", (1, 3, 1, 2), {"axes": (-2, 0)}, "iOS18"),
    ("expand_dims", (3, 2), {"axes": (0,)}, "iOS16"),
    ("expand_dims", (3, 2), {"axes": (-1, 1)}, "iOS16"),
    ("expand_dims", (3,), {"axes": (3, 0, 2)}, "iOS17"),
    ("flatten2d", (2, 3, 4), {}, "iOS16"),
    ("flatten2d", (2, 3, 4), {"axis": -1}, "iOS16"),
    ("split", (6, 2), {"axis": 0, "num_splits": 3}, "iOS16"),
    ("split", (2, 6), {"axis": -1, "split_sizes": (1, 3, 2)}, "iOS16"),
    ("split", (3, 1, 2), {"axis": 0, "num_splits": 2, "split_sizes": (1, 2)}, "iOS18"),
    ("tile", (2, 3), {"reps": (1, 1)}, "iOS16"),
    ("tile", (2, 3), {"reps": (3, 2)}, "iOS16"),
    ("tile", (1, 2, 1), {"reps": (2, 1, 4)}, "iOS18"),
    ("reverse", (2, 3, 4), {}, "iOS16"),
    ("reverse", (2, 3, 4), {"axes": (1,)}, "iOS16"),
    ("reverse", (2, 3, 4), {"axes": (-1, 0)}, "iOS17"),
    ("shape", (2, 3, 4), {}, "iOS16"),
    ("shape", (7,), {}, "iOS18"),
    ("fill_like", (2, 3), {}, "iOS16"),
    ("fill_like", (2, 1, 3), {"value": np.float32(-2.5)}, "iOS18"),
    ("pad", (2, 3), {"pad": (1, 2)}, "iOS16"),
    ("pad", (2, 3), {"pad": (0, 1, 2, 3), "constant_val": np.float32(-1.5)}, "iOS16"),
    ("pad", (1, 2, 3, 4), {"pad": (1, 0, 0, 2, 1, 1, 3, 0), "mode": "constant"}, "iOS17"),
    ("pad", (2, 3, 4), {"pad": (2, 1, 3, 3), "mode": "reflect"}, "iOS16"),
    ("pad", (2, 3, 4, 2, 3), {"pad": (1, 1, 2, 0, 0, 3, 1, 0, 2, 2), "mode": "reflect"}, "iOS16"),
    ("pad", (2, 3, 4), {"pad": (1, 3), "mode": "replicate"}, "iOS16"),
    ("pad", (2, 1, 2, 2), {"pad": (2, 0, 1, 1, 0, 2, 1, 2), "mode": "replicate"}, "iOS18"),
    ("band_part", (4, 4), {}, "iOS16"),
    ("band_part", (4, 5), {"lower": 0}, "iOS16"),
    ("band_part", (5, 3), {"upper": 0}, "iOS16"),
    ("band_part", (2, 4, 4), {"lower": 1, "upper": 2}, "iOS16"),
    ("band_part", (3, 3), {"lower": 0, "upper": 0}, "iOS18"),
]


def described(case: tuple[Any, ...]) -> str:
    return "-".join(str(entry).replace(" ", "") for entry in case)


@pytest.mark.parametrize(("kind", "shape", "parameters", "opset"), INFERRED, ids=map(described, INFERRED))
def test_what_coremltools_infers(kind: str, shape: Shape, parameters: dict[str, Any], opset: str) -> None:
    def build(mb: Any, x: Any) -> Any:
        return getattr(mb, kind)(**{"ref_tensor" if kind == "fill_like" else "x": x}, **parameters)

    inputs = {"x": numbered(shape)}
    same(executed(build, inputs, opset), inferred(build, inputs, opset))


@pytest.mark.parametrize(("axis", "expected"), [(0, (1, 3)), (-1, (1, 3)), (1, (3, 1))])
def test_flatten2d_of_a_vector(axis: int, expected: Shape) -> None:
    """coremltools' own inference fails here: the product of no edges is a float."""
    found = executed(lambda mb, x: mb.flatten2d(x=x, axis=axis), {"x": numbered((3,))})
    same(found, numbered((3,)).reshape(expected))


SEVERAL: list[tuple[str, tuple[Shape, ...], dict[str, Any]]] = [
    ("concat", ((2, 3), (1, 3)), {"axis": 0}),
    ("concat", ((2, 1, 2), (2, 3, 2), (2, 1, 2)), {"axis": -2}),
    ("concat", ((4,),), {"axis": 0}),
    ("stack", ((2, 3), (2, 3)), {"axis": 0}),
    ("stack", ((2, 3), (2, 3), (2, 3)), {"axis": -1}),
    ("stack", ((4,),), {"axis": 1}),
]


@pytest.mark.parametrize(("kind", "shapes", "parameters"), SEVERAL, ids=map(described, SEVERAL))
def test_several_values_in_one(kind: str, shapes: tuple[Shape, ...], parameters: dict[str, Any]) -> None:
    def build(mb: Any, **values: Any) -> Any:
        return getattr(mb, kind)(values=list(values.values()), **parameters)

    inputs = {f"x{index}": numbered(shape) * (-1) ** index for index, shape in enumerate(shapes)}
    same(executed(build, inputs), inferred(build, inputs))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concat_interleaves(axis: int) -> None:
    x, y = numbered((2, 3)), -numbered((2, 3))
    expected = np.empty((4, 3) if axis == 0 else (2, 6), np.float32)
    places = (slice(None),) * (axis % 2)
    expected[(*places, slice(0, None, 2))] = x
    expected[(*places, slice(1, None, 2))] = y

    def build(mb: Any, x: Any, y: Any) -> Any:
        return mb.concat(values=[x, y], axis=axis, interleave=True)

    same(executed(build, {"x": x, "y": y}), expected)


def test_concat_of_scalars_is_a_vector() -> None:
    """As a program of dynamic shapes makes one of the edges of an image."""

    def build(mb: Any, x: Any) -> Any:
        height, width = (mb.gather(x=mb.shape(x=x), indices=axis, axis=0) for axis in (2, 3))
        return mb.concat(values=[height, width], axis=0)

    found = executed(build, {"x": numbered((1, 2, 3, 4))})
    same(found, np.array([3, 4]))
    assert found.dtype == np.int32


FILLS = [(np.float32(1.5), (2, 3)), (np.int32(-4), (5,)), (np.bool_(True), (1, 2, 1)), (None, (3, 2))]


@pytest.mark.parametrize(("value", "shape"), FILLS, ids=map(described, FILLS))
def test_fill(value: Any, shape: Shape) -> None:
    """The shape comes from a value of the program, as in one of dynamic shapes."""

    def build(mb: Any, x: Any) -> Any:
        return mb.fill(shape=mb.shape(x=x), **({} if value is None else {"value": value}))

    found = executed(build, {"x": numbered(shape)})
    same(found, np.full(shape, value or 0))
    assert found.dtype == (np.int32 if isinstance(value, np.int32) else np.float32)


RANGES = [
    (np.int32, 0, 7, 1),
    (np.int32, 5, -4, -2),
    (np.int32, -3, 9, 4),
    (np.int32, 4, 4, 1),
    (np.float32, 0, 1, 0.1),
    (np.float32, 0, 1, 0.3),
    (np.float32, 0, 0.3, 0.1),
    (np.float32, 2, -1, -0.5),
    (np.float16, 0, 3, 0.25),
]


@pytest.mark.parametrize(("dtype", "start", "end", "step"), RANGES, ids=map(described, RANGES))
def test_range_1d(dtype: Any, start: float, end: float, step: float) -> None:
    def build(mb: Any, start: Any) -> Any:
        return mb.range_1d(start=mb.squeeze(x=start), end=dtype(end), step=dtype(step))

    count = int(np.ceil((dtype(end) - dtype(start)) / dtype(step)))
    expected = (start + np.arange(count) * np.float64(dtype(step))).astype(dtype)
    found = executed(build, {"start": np.array([start], dtype)}, "iOS17")
    assert found.dtype == dtype
    assert found.shape == (count,)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def blocks(x: np.ndarray, height: int, width: int) -> dict[tuple[int, int], np.ndarray]:
    """By its place in a block the image of the pixels there."""
    return {(i, j): x[:, :, i::height, j::width] for i in range(height) for j in range(width)}


def space_to_depth(x: np.ndarray, block: int) -> np.ndarray:
    return np.concatenate(list(blocks(x, block, block).values()), axis=1)


def pixel_unshuffle(x: np.ndarray, factor: int) -> np.ndarray:
    channels = [blocks(x[:, [c]], factor, factor) for c in range(x.shape[1])]
    return np.concatenate([image for channel in channels for image in channel.values()], axis=1)


def space_to_batch(x: np.ndarray, height: int, width: int, paddings: Any) -> np.ndarray:
    padded = np.pad(x, ((0, 0), (0, 0), *paddings))
    return np.concatenate(list(blocks(padded, height, width).values()), axis=0)


@pytest.mark.parametrize("block", [2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_space_to_depth_and_back(block: int, dtype: Any) -> None:
    x = numbered((2, 3, 6, 12), dtype)
    deep = space_to_depth(x, block)
    same(executed(lambda mb, x: mb.space_to_depth(x=x, block_size=block), {"x": x}), deep)
    same(executed(lambda mb, x: mb.depth_to_space(x=x, block_size=block), {"x": deep}), x)


@pytest.mark.parametrize("factor", [2, 3])
def test_pixel_unshuffle_and_back(factor: int) -> None:
    x = numbered((2, 3, 6, 12))
    deep = pixel_unshuffle(x, factor)
    same(executed(lambda mb, x: mb.pixel_unshuffle(x=x, downscale_factor=np.uint32(factor)), {"x": x}), deep)
    same(executed(lambda mb, x: mb.pixel_shuffle(x=x, upscale_factor=factor), {"x": deep}), x)


@pytest.mark.parametrize(("block", "paddings"), [((2, 2), ((0, 0), (0, 0))), ((2, 3), ((1, 1), (0, 3)))], ids=str)
def test_space_to_batch_and_back(block: Any, paddings: Any) -> None:
    x = numbered((2, 3, 4, 6))
    small = space_to_batch(x, *block, paddings)
    found = executed(lambda mb, x: mb.space_to_batch(x=x, block_shape=block, paddings=paddings), {"x": x})
    same(found, small)
    same(executed(lambda mb, x: mb.batch_to_space(x=x, block_shape=block, crops=paddings), {"x": small}), x)


@pytest.mark.parametrize(("height", "width"), [((0, 0), (0, 0)), ((1, 2), (0, 3)), ((3, 0), (1, 1))], ids=str)
@pytest.mark.parametrize("edges", [(2,), (2, 3)], ids=str)
def test_crop(edges: Shape, height: Shape, width: Shape) -> None:
    x = numbered((*edges, 5, 6))
    expected = x[..., height[0] : 5 - height[1], width[0] : 6 - width[1]]
    same(executed(lambda mb, x: mb.crop(x=x, crop_height=height, crop_width=width), {"x": x}), expected)


@pytest.mark.parametrize(("axis", "size", "stride"), [(0, 2, 1), (1, 3, 2), (-1, 4, 3), (-2, 1, 1)])
def test_sliding_windows(axis: int, size: int, stride: int) -> None:
    x = numbered((3, 5, 9))
    along = axis % 3
    starts = range(0, x.shape[along] - size + 1, stride)
    expected = np.stack([np.take(x, range(start, start + size), along) for start in starts], along)
    same(executed(lambda mb, x: mb.sliding_windows(x=x, axis=axis, size=size, stride=stride), {"x": x}), expected)


@pytest.mark.parametrize(
    ("lengths", "seq_axis", "batch_axis"), [((0, 3, 2), 1, 0), ((1, 4), -1, 1), ((2, 3, 1, 0), 0, 2)], ids=str
)
def test_reverse_sequence(lengths: Shape, seq_axis: int, batch_axis: int) -> None:
    x = numbered((3, 2, 4)) if batch_axis else numbered((3, 4, 2))
    expected = x.copy()
    for entry, length in enumerate(lengths):
        place: list[Any] = [slice(None)] * 3
        place[batch_axis] = slice(entry, entry + 1)
        place[seq_axis] = slice(0, length)
        expected[tuple(place)] = np.flip(x[tuple(place)], seq_axis)

    def build(mb: Any, x: Any, lengths: Any) -> Any:
        return mb.reverse_sequence(x=x, lengths=lengths, seq_axis=seq_axis, batch_axis=batch_axis)

    same(executed(build, {"x": x, "lengths": np.array(lengths, np.int32)}), expected)


REFERENCES: list[tuple[Shape, tuple[Shape, ...], Shape, Shape, tuple[bool, ...]]] = [
    ((2, 15, 6), ((2, 3, 4), (1, 5, 6)), (0, 1), (2, 0), (False, True)),
    ((6, 4), ((2, 3, 4),), (0,), (3,), (False,)),
]


@pytest.mark.parametrize(("shape", "references", "begins", "ends", "masks"), REFERENCES, ids=map(described, REFERENCES))
def test_reshape_like(
    shape: Shape, references: tuple[Shape, ...], begins: Shape, ends: Shape, masks: tuple[bool, ...]
) -> None:
    target = [
        edge
        for reference, begin, end, to_end in zip(references, begins, ends, masks, strict=True)
        for edge in reference[begin : len(reference) if to_end else end]
    ]

    def build(mb: Any, x: Any, **others: Any) -> Any:
        return mb.reshape_like(
            x=x, ref_tensors=list(others.values()), begins=list(begins), ends=list(ends), end_masks=list(masks)
        )

    x = numbered(shape)
    others = {f"r{index}": numbered(reference) for index, reference in enumerate(references)}
    same(executed(build, {"x": x, **others}), x.reshape(target))


@pytest.mark.parametrize("compute", COMPUTE)
def test_float16_is_moved_as_it_is(compute: str) -> None:
    x = np.array([[1.0005, 65504, np.inf, 6e-8]], np.float16)
    found = executed(lambda mb, x: mb.transpose(x=x, perm=(1, 0)), {"x": x}, compute=compute)
    assert found.dtype == {"declared": np.float16, "fp32": np.float32}[compute]
    same(found, x.T)


TENSOR = torch.arange(12.0).reshape(3, 4)
IMPOSSIBLE: list[tuple[str, dict[str, Any]]] = [
    ("tile", {"x": TENSOR, "reps": (1 << 20, 1 << 20)}),
    ("pad", {"x": TENSOR, "pad": (1 << 30, 1 << 30)}),
    ("pad", {"x": TENSOR, "pad": (-1, 0)}),
    ("pad", {"x": TENSOR, "pad": (0, 4), "mode": "reflect"}),
    ("pad", {"x": TENSOR, "pad": (0, 1), "mode": "mirror"}),
    ("fill", {"shape": (1 << 30, 1 << 30)}),
    ("fill", {"shape": (-1, 2)}),
    ("range_1d", {"start": 0.0, "end": 1e30, "step": 1e-3}),
    ("range_1d", {"start": 0, "end": 5, "step": 0}),
    ("range_1d", {"start": 0.0, "end": float("nan"), "step": 1.0}),
    ("split", {"x": TENSOR, "axis": 0, "num_splits": 0}),
    ("split", {"x": TENSOR, "axis": 1, "num_splits": 3}),
    ("space_to_depth", {"x": TENSOR.reshape(1, 1, 3, 4), "block_size": 0}),
    ("reverse_sequence", {"x": TENSOR, "lengths": (9, 9, 9), "seq_axis": 1}),
    ("crop", {"x": TENSOR, "crop_height": (-1, 1), "crop_width": (0, 0)}),
]


@pytest.mark.parametrize(("kind", "arguments"), IMPOSSIBLE, ids=[kind for kind, _ in IMPOSSIBLE])
def test_what_no_model_asks_for(kind: str, arguments: dict[str, Any]) -> None:
    values = {name: value if isinstance(value, str) else torch.as_tensor(value) for name, value in arguments.items()}
    with pytest.raises(UnreadableArtifact):
        OPS[kind](**values)
