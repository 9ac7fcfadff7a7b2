# SPDX-License-Identifier: Apache-2.0
"""coremltools infers no value of these: NumPy states them, point by point and in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.vitedge.mlprogram.mil import executed
from tests.vitedge.mlprogram.ops.test_shape import described, numbered, same
from vitedge.errors import UnreadableArtifact
from vitedge.mlprogram.ops.resampling import OPS

Shape = tuple[int, ...]
Parameters = dict[str, Any]
MODES = ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS")


def image(shape: Shape, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(5).normal(size=shape).astype(dtype)


def close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    tolerance = 1e-3 if found.dtype == np.float16 else 2e-6
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def grid_point(i: int, pixels: float, count: int, mode: str) -> float:
    """The formulas of the docstring of ``resize_bilinear``, as they stand there."""
    if mode == "STRICT_ALIGN_CORNERS" or (mode == "ALIGN_CORNERS" and count > 1):
        point = i * (pixels - 1) / (count - 1) if count > 1 else 0.0
    elif mode == "ALIGN_CORNERS":
        point = (pixels - 1) / 2
    elif mode == "DEFAULT":
        point = i * (pixels - pixels / count) / (count - 1) if count > 1 else 0.0
    elif mode == "OFFSET_CORNERS":
        delta = max(1, pixels - 1) / count
        point = 0.5 * delta + (i * ((count - 1) * delta) / (count - 1) if count > 1 else 0.0)
    else:
        spacing = pixels / count
        point = i * spacing + 0.5 * spacing - 0.5
    return min(pixels - 1, max(0, point))


def along(x: np.ndarray, axis: int, points: list[float]) -> np.ndarray:
    """An axis at points between its elements."""
    places = np.arange(x.shape[axis])
    return np.apply_along_axis(lambda line: np.interp(points, places, line), axis, x.astype(np.float64))


def resized(x: np.ndarray, edges: Shape, mode: str) -> np.ndarray:
    for axis, edge in enumerate(edges, x.ndim - len(edges)):
        x = along(x, axis, [grid_point(i, x.shape[axis], edge, mode) for i in range(edge)])
    return x


@pytest.mark.parametrize(
    ("mode", "points"),
    [
        ("UNALIGN_CORNERS", (0, 0.1, 0.5, 0.9, 1)),
        ("STRICT_ALIGN_CORNERS", (0, 0.25, 0.5, 0.75, 1)),
        ("ALIGN_CORNERS", (0, 0.25, 0.5, 0.75, 1)),
        ("DEFAULT", (0, 0.4, 0.8, 1, 1)),
        ("OFFSET_CORNERS", (0.1, 0.3, 0.5, 0.7, 0.9)),
    ],
)
def test_resize_bilinear_at_the_points_of_the_definition(mode: str, points: Shape) -> None:
    """The example that MIL's definition gives: the axis 0, 1 at five points."""
    x = np.array([[[0, 1]]], np.float32)

    def build(mb: Any, x: Any) -> Any:
        return mb.resize_bilinear(x=x, target_size_height=1, target_size_width=5, sampling_mode=mode)

    close(executed(build, {"x": x}), np.array([[points]]))


@pytest.mark.parametrize("edges", [(7, 9), (3, 2), (1, 1), (4, 5)], ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_resize_bilinear(mode: str, edges: Shape) -> None:
    x = image((2, 3, 4, 5))

    def build(mb: Any, x: Any) -> Any:
        return mb.resize_bilinear(x=x, target_size_height=edges[0], target_size_width=edges[1], sampling_mode=mode)

    close(executed(build, {"x": x}), resized(x, edges, mode))


@pytest.mark.parametrize(("edges", "shape"), [((8, 10), (2, 4, 5)), ((7, 3), (1, 2, 4, 5)), ((2, 9), (1, 1, 6, 4))])
def test_resize_nearest_neighbor(edges: Shape, shape: Shape) -> None:
    x = numbered(shape)
    rows, columns = (
        [int((i + 0.5) * old / new) for i in range(new)] for old, new in zip(shape[-2:], edges, strict=True)
    )

    def build(mb: Any, x: Any) -> Any:
        return mb.resize_nearest_neighbor(x=x, target_size_height=edges[0], target_size_width=edges[1])

    same(executed(build, {"x": x}), x[..., rows, :][..., columns])


@pytest.mark.parametrize("scales", [(2, 3), (1, 4), (np.float32(1.5), np.float32(2)), (np.float32(0.5), np.float32(1))])
def test_upsample_nearest_neighbor(scales: tuple[float, float]) -> None:
    x = numbered((2, 4, 6))
    rows, columns = ([int(i / scale) for i in range(int(n * scale))] for n, scale in zip((4, 6), scales, strict=True))

    def build(mb: Any, x: Any) -> Any:
        return mb.upsample_nearest_neighbor(x=x, scale_factor_height=scales[0], scale_factor_width=scales[1])

    same(executed(build, {"x": x}), x[..., rows, :][..., columns])


UPSAMPLES: list[tuple[float, float, Parameters, str]] = [
    (2, 3, {}, "STRICT_ALIGN_CORNERS"),
    (2, 3, {"align_corners": False}, "UNALIGN_CORNERS"),
    (np.float32(1.3), np.float32(0.7), {"align_corners": True}, "STRICT_ALIGN_CORNERS"),
    (np.float32(1.3), np.float32(2.5), {"align_corners": False}, "UNALIGN_CORNERS"),
    (3, 2, {"align_corners": False, "half_pixel_centers": False}, "DEFAULT"),
    (3, 2, {"align_corners": False, "half_pixel_centers": True}, "UNALIGN_CORNERS"),
]


@pytest.mark.parametrize(("height", "width", "parameters", "mode"), UPSAMPLES, ids=map(described, UPSAMPLES))
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_upsample_bilinear(height: float, width: float, parameters: Parameters, mode: str, dtype: Any) -> None:
    x = image((1, 2, 4, 5), dtype)
    edges = (int(np.floor(height * 4)), int(np.floor(width * 5)))

    def build(mb: Any, x: Any) -> Any:
        return mb.upsample_bilinear(x=x, scale_factor_height=height, scale_factor_width=width, **parameters)

    found = executed(build, {"x": x})
    assert found.dtype == dtype
    close(found, resized(x, edges, mode))


@pytest.mark.parametrize(
    ("shape", "dims", "edges"),
    [((1, 6, 8), 2, (6, 8)), ((1, 0, 0), 2, (3, 4)), ((5,), 1, (5,)), ((3, 0, 7), 3, (3, 3, 7))],
    ids=str,
)
@pytest.mark.parametrize("mode", ["DEFAULT", "UNALIGN_CORNERS", "STRICT_ALIGN_CORNERS"])
def test_resize(mode: str, shape: Shape, dims: int, edges: Shape) -> None:
    x = image((1, 2, 3, 4))

    def build(mb: Any, x: Any, interpolation: str = "LINEAR") -> Any:
        return mb.resize(
            x=x,
            shape=np.array(shape, np.int32),
            resized_dims=np.uint32(dims),
            sampling_mode=mode,
            interpolation_mode=interpolation,
        )

    close(executed(build, {"x": x}, "iOS17"), resized(x, edges, mode))
    expected = x
    for axis, edge in enumerate(edges, 4 - dims):
        half = "UNALIGN_CORNERS" if mode == "DEFAULT" else mode  # as TensorFlow's half-pixel centres become it
        points = [grid_point(i, x.shape[axis], edge, half) for i in range(edge)]
        expected = np.take(expected, [int(np.floor(point + 0.5)) for point in points], axis)
    same(executed(lambda mb, x: build(mb, x, "NEAREST_NEIGHBOR"), {"x": x}, "iOS17"), expected)


PADDED = 40
"""Pixels by which the statement below pads: further out than any point of the tests."""
PADDINGS = {"constant": "constant", "border": "edge", "reflection": "reflect", "symmetric": "symmetric"}


def read(plane: np.ndarray, y: float, x: float, how: tuple[str, str]) -> float:
    """One plane at one point in pixels, of the plane as NumPy pads it; 1.5 is the constant."""
    sampling, padding = how
    value = {"constant_values": 1.5} if padding == "constant" else {}
    padded = np.pad(plane.astype(np.float64), PADDED, PADDINGS[padding], **value)  # type: ignore[call-overload]
    y, x = y + PADDED, x + PADDED
    if sampling == "nearest":
        return float(padded[int(np.rint(y)), int(np.rint(x))])
    row = along(padded[int(y) : int(y) + 2], 0, [y - int(y)])[0]
    return float(along(row[int(x) : int(x) + 2], 0, [x - int(x)])[0])


def sampled(x: np.ndarray, points: np.ndarray, how: tuple[str, str]) -> np.ndarray:
    """Images at points ``[B, h, w, 2]`` of x and y in pixels."""
    found = np.empty((*x.shape[:2], *points.shape[1:3]))
    for entry, channel, row, column in np.ndindex(*found.shape):
        right, down = points[entry, row, column]
        found[entry, channel, row, column] = read(x[entry, channel], down, right, how)
    return found


COORDINATES: list[tuple[str, bool, tuple[float, float], Callable[[Any, Any], Any]]] = [
    # mode, whether corners are aligned, a range beyond the image, and what it is in pixels
    ("unnormalized", True, (-6, 9), lambda at, edge: at),
    ("normalized_minus_one_to_one", True, (-2, 2), lambda at, edge: (at + 1) / 2 * (edge - 1)),
    ("normalized_minus_one_to_one", False, (-2, 2), lambda at, edge: (at + 1) / 2 * edge - 0.5),
    ("normalized_zero_to_one", True, (-1, 2), lambda at, edge: at * (edge - 1)),
    ("normalized_zero_to_one", False, (-1, 2), lambda at, edge: at * edge - 0.5),
]


@pytest.mark.parametrize("how", list(itertools.product(("bilinear", "nearest"), PADDINGS)), ids="-".join)
@pytest.mark.parametrize(
    ("mode", "aligned", "limits", "pixels"), COORDINATES, ids=[f"{m}-{a}" for m, a, *_ in COORDINATES]
)
def test_resample(
    mode: str, aligned: bool, limits: tuple[float, float], pixels: Callable[[Any, Any], Any], how: tuple[str, str]
) -> None:
    x = image((2, 1, 4, 5))
    points = np.random.default_rng(6).uniform(*limits, (2, 3, 4, 2)).astype(np.float32)

    def build(mb: Any, x: Any, at: Any) -> Any:
        return mb.resample(
            x=x,
            coordinates=at,
            sampling_mode=how[0],
            padding_mode=how[1],
            padding_value=np.float32(1.5),
            coordinates_mode=mode,
            align_corners=aligned,
        )

    expected = sampled(x, pixels(points.astype(np.float64), np.array([5, 4])), how)
    np.testing.assert_allclose(executed(build, {"x": x, "at": points}), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("edges", [(3, 4), (5, 2)], ids=str)
@pytest.mark.parametrize("several", [False, True])
def test_affine(several: bool, edges: Shape) -> None:
    x = image((2, 2, 4, 5))
    maps = np.array([[1, 0.2, -0.1, -0.3, 0.8, 0.2], [0.5, -0.5, 0, 0.4, 1.1, 0.3]], np.float32)[: 1 + several]
    points = np.empty((2, *edges, 2))
    for entry, row, column in np.ndindex(2, *edges):
        place = (2 * column / (edges[1] - 1) - 1, 2 * row / (edges[0] - 1) - 1, 1)
        points[entry, row, column] = maps[entry % len(maps)].astype(np.float64).reshape(2, 3) @ place
    pixels = (points + 1) / 2 * np.array([4, 3])

    def build(mb: Any, x: Any, maps: Any) -> Any:
        return mb.affine(
            x=x,
            transform_matrix=maps,
            output_height=edges[0],
            output_width=edges[1],
            sampling_mode="bilinear",
            padding_mode="constant",
            padding_value=0.0,
            coordinates_mode="normalized_minus_one_to_one",
            align_corners=True,
        )

    expected = sampled(np.pad(x, ((0, 0), (0, 0), (9, 9), (9, 9))), pixels + 9, ("bilinear", "border"))
    np.testing.assert_allclose(executed(build, {"x": x, "maps": maps}), expected, rtol=1e-5, atol=1e-5)


BOXES = np.array([[0.5, 1.25, 2.5, 3], [0, 0, 3, 4], [1, 3, 1.75, 3.25]], np.float32)
"""Heights and widths of the starts and of the ends, in an image of 4 x 5; the last is less than a pixel wide."""


def cropped(x: np.ndarray, boxes: np.ndarray, images: list[int], edges: Shape, mode: str) -> np.ndarray:
    found = []
    for entry, (top, left, bottom, right) in zip(images, boxes.astype(np.float64), strict=True):
        rows = [top + grid_point(i, bottom - top + 1, edges[0], mode) for i in range(edges[0])]
        columns = [left + grid_point(i, right - left + 1, edges[1], mode) for i in range(edges[1])]
        found.append(along(along(x[entry], 1, rows), 2, columns))
    return np.stack(found)


@pytest.mark.parametrize("edges", [(3, 4), (1, 1)], ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_crop_resize(mode: str, edges: Shape) -> None:
    """Boxes of iOS17, each of its image, and regions of iOS16 with an image and for all images."""
    x = image((2, 3, 4, 5))
    sizes = {"target_height": edges[0], "target_width": edges[1], "sampling_mode": mode}
    images = [1, 0, 1]
    expected = cropped(x, BOXES, images, edges, mode)

    def newer(mb: Any, x: Any, boxes: Any) -> Any:
        return mb.crop_resize(x=x, boxes=boxes, box_indices=np.array(images, np.int32), **sizes)

    close(executed(newer, {"x": x, "boxes": BOXES}, "iOS17"), expected)

    def older(mb: Any, x: Any, roi: Any) -> Any:
        return mb.crop_resize(x=x, roi=roi, **sizes)

    found = executed(older, {"x": x, "roi": BOXES.reshape(3, 1, 4, 1, 1)})
    close(found, np.stack([cropped(x, BOXES, [entry] * 3, edges, mode) for entry in (0, 1)], 1))
    numbered_boxes = np.insert(BOXES, 0, 0, axis=1).reshape(3, 1, 5, 1, 1)
    close(executed(older, {"x": x[:1], "roi": numbered_boxes}), cropped(x, BOXES, [0] * 3, edges, mode)[:, None])


BOX_FORMS: list[tuple[str, Callable[[np.ndarray], np.ndarray], Parameters]] = [
    ("CORNERS_HEIGHT_FIRST", lambda box: box / np.float32([3, 4, 3, 4]), {"normalized_coordinates": True}),
    ("CORNERS_WIDTH_FIRST", lambda box: box[:, [1, 0, 3, 2]], {}),
    ("CORNERS_WIDTH_FIRST", lambda box: 2 * box[:, [1, 0, 3, 2]], {"spatial_scale": 0.5}),
    (
        "CENTER_SIZE_HEIGHT_FIRST",
        lambda box: np.concatenate([(box[:, :2] + box[:, 2:]) / 2, box[:, 2:] - box[:, :2]], 1),
        {},
    ),
    (
        "CENTER_SIZE_WIDTH_FIRST",
        lambda box: np.concatenate([(box[:, :2] + box[:, 2:]) / 2, box[:, 2:] - box[:, :2]], 1)[:, [1, 0, 3, 2]],
        {},
    ),
]


@pytest.mark.parametrize(("form", "written", "parameters"), BOX_FORMS, ids=[f"{f}-{p}" for f, _, p in BOX_FORMS])
def test_crop_resize_reads_boxes_in_every_form(form: str, written: Any, parameters: Parameters) -> None:
    x = image((3, 1, 4, 5))

    def build(mb: Any, x: Any, boxes: Any) -> Any:
        return mb.crop_resize(
            x=x,
            boxes=boxes,
            target_height=2,
            target_width=3,
            box_coordinate_mode=form,
            sampling_mode="ALIGN_CORNERS",
            **parameters,
        )

    found = executed(build, {"x": x, "boxes": written(BOXES).astype(np.float32)}, "iOS18")
    np.testing.assert_allclose(found, cropped(x, BOXES, [0, 1, 2], (2, 3), "ALIGN_CORNERS"), rtol=1e-5, atol=1e-5)


def test_crop_resize_pads_beyond_the_image() -> None:
    x = numbered((1, 1, 2, 2))

    def build(mb: Any, x: Any) -> Any:
        return mb.crop_resize(
            x=x,
            boxes=np.array([[-1, 0, 1, 2]], np.float32),
            target_height=3,
            target_width=3,
            sampling_mode="ALIGN_CORNERS",
            pad_value=np.float32(-5),
        )

    same(executed(build, {"x": x}, "iOS17"), np.array([[[[-5, -5, -5], [1, 2, -5], [3, 4, -5]]]]))


X = torch.arange(24.0).reshape(1, 2, 3, 4)
POINTS = {
    "sampling_mode": "bilinear",
    "padding_mode": "border",
    "padding_value": 0.0,
    "coordinates_mode": "unnormalized",
    "align_corners": True,
}
IMPOSSIBLE: list[tuple[str, Parameters]] = [
    ("resize_bilinear", {"target_size_height": 1 << 20, "target_size_width": 1 << 20}),
    ("resize_bilinear", {"target_size_height": -1, "target_size_width": 4}),
    ("resize_bilinear", {"sampling_mode": "CENTRED"}),
    ("resize_nearest_neighbor", {"target_size_height": 1 << 30, "target_size_width": 2}),
    ("upsample_nearest_neighbor", {"scale_factor_height": 1e9}),
    ("upsample_bilinear", {"scale_factor_width": 1e9}),
    ("upsample_bilinear", {"align_corners": True, "half_pixel_centers": True}),
    ("resize", {"shape": (2, 2), "resized_dims": 3}),
    ("resize", {"shape": (2, 2), "resized_dims": 2, "interpolation_mode": "CUBIC"}),
    ("crop_resize", {"boxes": [[0.0, 0, 1, 1]], "box_indices": [3]}),
    ("crop_resize", {"boxes": [[0.0, 0, 1, 1]], "box_coordinate_mode": "EDGES"}),
    ("crop_resize", {"boxes": [[0.0, 0, 1, 1]], "target_height": 1 << 20, "target_width": 1 << 20}),
    ("crop_resize", {}),
    ("resample", {"coordinates": [[[[0.0, 0.0]]]], **POINTS, "sampling_mode": "bicubic"}),
    ("resample", {"coordinates": [[[[0.0, 0.0]]]], **POINTS, "padding_mode": "wrap"}),
    ("resample", {"coordinates": [[[[0.0, 0.0]]]], **POINTS, "coordinates_mode": "polar"}),
]


@pytest.mark.parametrize(("kind", "arguments"), IMPOSSIBLE, ids=map(described, ((k, list(a)) for k, a in IMPOSSIBLE)))
def test_what_no_model_asks_for(kind: str, arguments: Parameters) -> None:
    values = {name: value if isinstance(value, str) else torch.as_tensor(value) for name, value in arguments.items()}
    with pytest.raises(UnreadableArtifact):
        OPS[kind](X, **values)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("far", [float("inf"), float("-inf"), float("nan"), 3e38])
def test_coordinates_that_are_no_place_read_nothing_beyond_the_image(far: float, padding: str) -> None:
    found = OPS["resample"](X, torch.tensor([[[[far, 0.0]]]]), **{**POINTS, "padding_mode": padding})
    assert found.shape == (1, 2, 1, 1)
