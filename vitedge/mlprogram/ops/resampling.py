# SPDX-License-Identifier: Apache-2.0
"""Resizing of images, and sampling between their pixels.

MIL's definitions say for every sampling mode where the points lie. Where they leave the choice of the nearest pixel
open, this is the one of coremltools' TensorFlow front end, which lowers to these operations what is equal to them.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vitedge.errors import UnreadableArtifact
from vitedge.mlprogram.ops.arguments import Table, allow, flag, integer, ints, number


def _grid(size: Tensor, count: int, mode: str) -> Tensor:
    """Returns where ``count`` points lie on an axis of ``size`` pixels ``[..., 1]``, from 0 on, ``[..., count]``.

    ``size`` need not be whole: a box of an image has its extent plus one.
    """
    at = torch.arange(count, dtype=torch.float64)
    if mode == "STRICT_ALIGN_CORNERS" or (mode == "ALIGN_CORNERS" and count > 1):
        grid = at * (size - 1) / max(1, count - 1)
    elif mode == "ALIGN_CORNERS":
        grid = (size - 1) / 2 + at
    elif mode == "DEFAULT":
        grid = at * size / count
    elif mode == "OFFSET_CORNERS":
        grid = (at + 0.5) * (size - 1).clamp(min=1) / count
    elif mode == "UNALIGN_CORNERS":
        grid = (at + 0.5) * size / count - 0.5
    else:
        raise UnreadableArtifact(f"There is no sampling mode {mode!r}.")
    end = size - 1
    return grid.clamp(min=end.clamp(max=0), max=end.clamp(min=0))


def _interpolated(x: Tensor, axis: int, grid: Tensor) -> Tensor:
    """Returns the value along an axis at points between its elements."""
    last = x.shape[axis] - 1
    below = grid.floor().long().clamp(0, last)
    weight = (grid - below).to(x.dtype).reshape(-1, *(1,) * (x.ndim - 1 - axis))
    return x.index_select(axis, below).lerp(x.index_select(axis, (below + 1).clamp(max=last)), weight)


def _resized(x: Tensor, edges: tuple[int, ...], mode: str) -> Tensor:
    """Interpolates the last axes of a value linearly to other edges."""
    first = x.ndim - len(edges)
    allow((*x.shape[:first], *edges))
    x = x if x.is_floating_point() else x.float()
    for axis, edge in enumerate(edges, first):
        x = _interpolated(x, axis, _grid(torch.tensor([x.shape[axis]], dtype=torch.float64), edge, mode))
    return x


def _scaled(edge: int, scale: Tensor | float) -> int:
    """An edge times a factor, rounded down, in float32 as coremltools has it."""
    return math.floor(torch.as_tensor(scale, dtype=torch.float32) * edge)


def upsample_nearest_neighbor(
    x: Tensor, scale_factor_height: Tensor | float = 1, scale_factor_width: Tensor | float = 1
) -> Tensor:
    """Enlarges the last two axes by repeating pixels: the one at, or before, the same place."""
    edges = [_scaled(x.shape[-2], scale_factor_height), _scaled(x.shape[-1], scale_factor_width)]
    allow((*x.shape[:-2], *edges))
    for axis, edge in enumerate(edges, x.ndim - 2):
        x = x.index_select(axis, torch.arange(edge) * x.shape[axis] // max(1, edge))
    return x


def resize_nearest_neighbor(x: Tensor, target_size_height: Tensor, target_size_width: Tensor) -> Tensor:
    """Resizes the last two axes: takes the pixel that the centre of the new one lies in."""
    return _nearest(x, (integer(target_size_height), integer(target_size_width)))


def _nearest(x: Tensor, edges: tuple[int, ...]) -> Tensor:
    first = x.ndim - len(edges)
    allow((*x.shape[:first], *edges))
    for axis, edge in enumerate(edges, first):
        x = x.index_select(axis, (2 * torch.arange(edge) + 1) * x.shape[axis] // max(1, 2 * edge))
    return x


def upsample_bilinear(
    x: Tensor,
    scale_factor_height: Tensor | float = 1,
    scale_factor_width: Tensor | float = 1,
    align_corners: Tensor | bool = True,  # noqa: FBT001, FBT002  (MIL's own parameters)
    half_pixel_centers: Tensor | bool | None = None,  # noqa: FBT001
) -> Tensor:
    """Enlarges the last two axes with linear interpolation; the factors are those of the rounded edges."""
    aligned = flag(align_corners)
    centred = not aligned if half_pixel_centers is None else flag(half_pixel_centers)
    if aligned and centred:
        raise UnreadableArtifact("Corners are aligned either by their edges or by their centres.")
    mode = "STRICT_ALIGN_CORNERS" if aligned else "UNALIGN_CORNERS" if centred else "DEFAULT"
    return _resized(x, (_scaled(x.shape[-2], scale_factor_height), _scaled(x.shape[-1], scale_factor_width)), mode)


def resize_bilinear(
    x: Tensor,
    target_size_height: Tensor | int = 1,
    target_size_width: Tensor | int = 1,
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """Resizes the last two axes with linear interpolation."""
    return _resized(x, (integer(target_size_height), integer(target_size_width)), sampling_mode)


def resize(
    x: Tensor,
    shape: Tensor,
    resized_dims: Tensor,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """Resizes the last ``resized_dims`` axes to the last edges of ``shape``, where 0 keeps an edge.

    The nearest neighbour in the mode ``DEFAULT`` is that of `resize_nearest_neighbor`; in the others it is the one
    nearest to the point that is sampled, the later one of two.
    """
    count, target = integer(resized_dims), ints(shape)
    if not 0 <= count <= min(len(target), x.ndim):
        raise UnreadableArtifact(f"{count} axes of {tuple(x.shape)} are not to be resized to {target}.")
    first = x.ndim - count
    edges = tuple(new or old for new, old in zip(target[len(target) - count :], x.shape[first:], strict=True))
    if interpolation_mode == "LINEAR":
        return _resized(x, edges, sampling_mode)
    if interpolation_mode != "NEAREST_NEIGHBOR":
        raise UnreadableArtifact(f"There is no interpolation {interpolation_mode!r}.")
    if sampling_mode == "DEFAULT":
        return _nearest(x, edges)
    allow((*x.shape[:first], *edges))
    for axis, edge in enumerate(edges, first):
        grid = _grid(torch.tensor([x.shape[axis]], dtype=torch.float64), edge, sampling_mode)
        x = x.index_select(axis, (grid + 0.5).floor().long().clamp(max=x.shape[axis] - 1))
    return x


@dataclass(frozen=True)
class Sampling:
    """The options by which `resample` and `affine` read an image at coordinates."""

    sampling_mode: str
    padding_mode: str
    padding_value: Tensor | float
    coordinates_mode: str
    align_corners: Tensor | bool

    def pixels(self, at: Tensor, edge: int) -> Tensor:
        """Returns coordinates along an edge in pixels; the centre of the first is 0."""
        if self.coordinates_mode == "unnormalized":
            return at
        if self.coordinates_mode == "normalized_minus_one_to_one":
            at = (at + 1) / 2
        elif self.coordinates_mode != "normalized_zero_to_one":
            raise UnreadableArtifact(f"There are no coordinates {self.coordinates_mode!r}.")
        return at * (edge - 1) if flag(self.align_corners) else at * edge - 0.5

    def read(self, x: Tensor, ys: Tensor, xs: Tensor) -> Tensor:
        """Returns images ``[B, C, H, W]`` at points ``[B, h, w]`` in pixels; ``[B, C, h, w]``."""
        allow((*x.shape[:2], *ys.shape[1:]))
        if self.sampling_mode == "nearest":
            return self._pixel(x, ys.round(), xs.round())  # halves to even, as PyTorch's grid_sample has it
        if self.sampling_mode != "bilinear":
            raise UnreadableArtifact(f"There is no sampling mode {self.sampling_mode!r}.")
        top, left = ys.floor(), xs.floor()
        found = torch.zeros((*x.shape[:2], *ys.shape[1:]), dtype=x.dtype)
        for down, right in itertools.product((0, 1), (0, 1)):
            weight = (1 - (ys - top - down).abs()) * (1 - (xs - left - right).abs())
            found += self._pixel(x, top + down, left + right) * weight[:, None].to(x.dtype)
        return found

    def _pixel(self, x: Tensor, ys: Tensor, xs: Tensor) -> Tensor:
        """Returns the pixels of whole coordinates, of the image as it is padded."""
        height, width = x.shape[2:]
        images = torch.arange(x.shape[0]).reshape(-1, 1, 1)
        found = x[images, :, self._padded(ys, height), self._padded(xs, width)].movedim(-1, 1)
        if self.padding_mode != "constant":
            return found
        inside = (ys >= 0) & (ys < height) & (xs >= 0) & (xs < width)
        return found.where(inside[:, None], torch.tensor(number(self.padding_value), dtype=x.dtype))

    def _padded(self, at: Tensor, edge: int) -> Tensor:
        """Which pixel of an edge stands at a place in or beyond it."""
        index = at.nan_to_num().clamp(-(2.0**52), 2.0**52).long()
        if self.padding_mode == "reflection":
            index = index.remainder(max(1, 2 * edge - 2))
            index = torch.minimum(index, 2 * edge - 2 - index)
        elif self.padding_mode == "symmetric":
            index = index.remainder(2 * edge)
            index = torch.minimum(index, 2 * edge - 1 - index)
        elif self.padding_mode not in ("constant", "border"):
            raise UnreadableArtifact(f"There is no padding mode {self.padding_mode!r}.")
        return index.clamp(0, edge - 1)


def resample(x: Tensor, coordinates: Tensor, **sampling: Any) -> Tensor:
    """Samples images ``[B, C, H, W]`` at coordinates ``[B, h, w, 2]``, the horizontal first; ``[B, C, h, w]``."""
    how = Sampling(**sampling)
    xs, ys = coordinates.double().unbind(-1)
    return how.read(x, how.pixels(ys, x.shape[2]), how.pixels(xs, x.shape[3]))


def affine(x: Tensor, transform_matrix: Tensor, output_height: Tensor, output_width: Tensor, **sampling: Any) -> Tensor:
    """Samples images ``[B, C, H, W]`` through affine maps ``[B or 1, 6]`` of the coordinates of the result.

    The coordinates of both run from -1 to 1, over the centres of the corner pixels or over their outer edges.
    """
    how = Sampling(**{**sampling, **{name: sampling[name].lower() for name in _LOWERED if name in sampling}})
    height, width = allow((integer(output_height), integer(output_width)))
    ys, xs = (_normalized(edge, flag(how.align_corners)) for edge in (height, width))
    maps = transform_matrix.double().expand(x.shape[0], 6).reshape(-1, 2, 3)
    xs, ys = xs.expand(height, width), ys[:, None].expand(height, width)
    points = torch.stack((xs, ys, torch.ones_like(xs)))
    return resample(x, torch.einsum("bij,jhw->bhwi", maps, points), **vars(how))


_LOWERED = ("sampling_mode", "padding_mode", "coordinates_mode")
"""Parameters of `affine` that coremltools takes in any case."""


def _normalized(edge: int, aligned: bool) -> Tensor:  # noqa: FBT001
    """Returns the pixels of an edge in coordinates from -1 to 1."""
    at = torch.arange(edge, dtype=torch.float64)
    return 2 * at / max(1, edge - 1) - 1 if aligned else (2 * at + 1) / max(1, edge) - 1


@dataclass(frozen=True)
class Crops:
    """The boxes of `crop_resize`, and how they are read."""

    roi: Tensor | None = None
    """``[N, 1, 4, 1, 1]`` coordinates, or 5 with the image before them; iOS15 and iOS16."""
    boxes: Tensor | None = None
    """``[N, 4]`` coordinates; iOS17."""
    box_indices: Tensor | None = None
    """``[N]`` images; unless given, every box has an image of its own."""
    target_height: Tensor | int = 1
    target_width: Tensor | int = 1
    normalized_coordinates: Tensor | bool = False
    spatial_scale: Tensor | float = 1.0
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST"
    sampling_mode: str = "DEFAULT"
    pad_value: Tensor | float = 0.0

    def placed(self, count: int) -> tuple[Tensor, Tensor]:
        """Returns coordinates ``[M, 4]``, and which of ``count`` images each belongs to ``[M]``."""
        if self.boxes is not None:
            boxes = self.boxes.double().reshape(-1, 4)
            images = torch.arange(len(boxes)) if self.box_indices is None else self.box_indices.long().reshape(-1)
        elif self.roi is not None and self.roi.shape[2] == 5:
            boxes = self.roi.double().reshape(-1, 5)
            images, boxes = boxes[:, 0].long(), boxes[:, 1:]
        elif self.roi is not None:
            boxes = self.roi.double().reshape(-1, 4).repeat_interleave(count, 0)
            images = torch.arange(count).repeat(self.roi.shape[0])
        else:
            raise UnreadableArtifact("A crop_resize has no boxes.")
        if images.shape[0] != boxes.shape[0] or bool(((images < 0) | (images >= count)).any()):
            raise UnreadableArtifact(f"The images {ints(images)} of {len(boxes)} boxes are none of {count}.")
        return boxes, images

    def corners(self, boxes: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Starts and ends ``[M, 2]`` in pixels, the height first."""
        if self.box_coordinate_mode not in _BOXES:
            raise UnreadableArtifact(f"There are no box coordinates {self.box_coordinate_mode!r}.")
        centred, width_first = _BOXES[self.box_coordinate_mode]
        first, second = boxes[:, :2], boxes[:, 2:]
        if centred:
            first, second = first - second / 2, first + second / 2
        if width_first:
            first, second = first.flip(1), second.flip(1)
        scale = torch.tensor([height - 1, width - 1]) if flag(self.normalized_coordinates) else torch.ones(2)
        scale = scale.double() * number(self.spatial_scale)
        return first * scale, second * scale


_BOXES = {
    "CORNERS_HEIGHT_FIRST": (False, False),
    "CORNERS_WIDTH_FIRST": (False, True),
    "CENTER_SIZE_HEIGHT_FIRST": (True, False),
    "CENTER_SIZE_WIDTH_FIRST": (True, True),
}
"""Box coordinates to whether they are a centre and a size, and whether the width comes first."""


def crop_resize(x: Tensor, **crops: Any) -> Tensor:
    """Boxes of images ``[B, C, H, W]``, each resized with linear interpolation.

    A point beyond the image is ``pad_value``.

    Returns:
        ``[N, C, height, width]`` for ``boxes``, ``[N, B, C, height, width]`` for ``roi`` of 4 coordinates, and
        ``[N, 1, C, height, width]`` for ``roi`` with the image.
    """
    how = Crops(**crops)
    height, width = allow((integer(how.target_height), integer(how.target_width)))
    boxes, images = how.placed(x.shape[0])
    allow((len(boxes), *x.shape[1:]))
    starts, ends = how.corners(boxes, *x.shape[2:])
    ys, xs = (
        starts[:, [axis]] + _grid(ends[:, [axis]] - starts[:, [axis]] + 1, count, how.sampling_mode)
        for axis, count in enumerate((height, width))
    )
    ys, xs = ys[:, :, None].expand(-1, -1, width), xs[:, None, :].expand(-1, height, -1)
    inside = (ys >= 0) & (ys <= x.shape[2] - 1) & (xs >= 0) & (xs <= x.shape[3] - 1)
    read = Sampling("bilinear", "border", 0.0, "unnormalized", align_corners=True).read(x[images], ys, xs)
    read = read.where(inside[:, None], torch.tensor(number(how.pad_value), dtype=x.dtype))
    return read if how.roi is None else read.reshape(how.roi.shape[0], -1, *read.shape[1:])


OPS: Table = {
    "affine": affine,
    "crop_resize": crop_resize,
    "resample": resample,
    "resize": resize,
    "resize_bilinear": resize_bilinear,
    "resize_nearest_neighbor": resize_nearest_neighbor,
    "upsample_bilinear": upsample_bilinear,
    "upsample_nearest_neighbor": upsample_nearest_neighbor,
}
