# SPDX-License-Identifier: Apache-2.0
"""Operations that choose values by index.

Nothing is computed, so float16 stays float16; where a scatter adds or multiplies, it widens by itself.

Indices count from 0; negative ones count from the end, which iOS15 and iOS16 say and iOS17 leaves undefined, unless
``validate_indices`` forbids them. An index beyond the end, which iOS17 leaves undefined too, is an error here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vitedge.errors import UnreadableArtifact
from vitedge.mlprogram.ops.arguments import Table, allow, flag, integer, ints
from vitedge.mlprogram.ops.elementwise import real_div


@dataclass(frozen=True)
class Selection:
    """A selection of `slice_by_index` and `slice_update`: per axis a begin, an end and a stride, or one element."""

    begin: Tensor
    end: Tensor
    stride: Tensor | None = None
    begin_mask: Tensor | None = None
    """Per axis, whether the begin is left out."""
    end_mask: Tensor | None = None
    """Per axis, whether the end is left out."""
    squeeze_mask: Tensor | None = None
    """Per axis, whether only the element at the begin is selected and the axis removed."""

    def slices(self, edges: torch.Size) -> tuple[tuple[slice, ...], list[int], list[int]]:
        """Returns slices with positive strides, the axes to reverse after them, and then the axes to remove."""
        rank = len(edges)
        none = (False,) * rank
        strides = ints(self.stride) or (1,) * rank
        masks = (ints(mask) or none for mask in (self.begin_mask, self.end_mask, self.squeeze_mask))
        entries = zip(edges, ints(self.begin), ints(self.end), strides, *masks, strict=True)
        slices: list[slice] = []
        reversed_axes: list[int] = []
        removed: list[int] = []
        for axis, (edge, begin, end, stride, from_start, to_end, one) in enumerate(entries):
            if one:
                at = 0 if from_start else _at(begin, edge)
                slices.append(slice(at, at + 1))
                removed.append(axis)
                continue
            found = range(*slice(None if from_start else begin, None if to_end else end, stride).indices(edge))
            if stride < 0:
                found = found[::-1]
                reversed_axes.append(axis)
            slices.append(slice(found.start, found.stop, found.step) if found else slice(0))
        return tuple(slices), reversed_axes, removed


def _at(index: int, edge: int) -> int:
    if not -edge <= index < edge:
        raise UnreadableArtifact(f"The index {index} is out of the bounds of an axis of {edge}.")
    return index % edge


def slice_by_index(x: Tensor, **selection: Tensor) -> Tensor:
    """Returns the elements of a `Selection`, as NumPy's ``x[begin:end:stride]`` per axis."""
    slices, reversed_axes, removed = Selection(**selection).slices(x.shape)
    chosen = x[slices]
    if reversed_axes:
        chosen = chosen.flip(reversed_axes)
    return chosen.squeeze(removed) if removed else chosen


def slice_update(x: Tensor, update: Tensor, **selection: Tensor) -> Tensor:
    """Returns the value with the elements of a `Selection` replaced."""
    slices, reversed_axes, _ = Selection(**selection).slices(x.shape)
    updated = x.clone(memory_format=torch.contiguous_format)
    place = updated[slices]
    place.copy_(update.reshape(place.shape).flip(reversed_axes))
    return updated


def slice_by_size(x: Tensor, begin: Tensor, size: Tensor) -> Tensor:
    """Returns ``size`` elements per axis from ``begin`` on, or all the rest where that is -1."""
    slices = []
    for edge, first, length in zip(x.shape, ints(begin), ints(size), strict=True):
        start = first + edge if first < 0 else first
        stop = edge if length == -1 else start + length
        if not 0 <= start <= stop <= edge:
            raise UnreadableArtifact(f"There are no {length} elements from {first} on along an axis of {edge}.")
        slices.append(slice(start, stop))
    return x[tuple(slices)]


def _located(indices: Tensor, edge: int, validate: Tensor | bool) -> Tensor:  # noqa: FBT001  (MIL's own parameter)
    """Returns indices along an axis, counted from its start.

    Raises:
        UnreadableArtifact: one is beyond the axis, or negative where indices are to be validated.
    """
    indices = indices.long()
    if indices.numel():
        lowest, highest = (int(bound) for bound in indices.aminmax())
        if highest >= edge or lowest < (0 if flag(validate) else -edge):
            raise UnreadableArtifact(f"Indices from {lowest} to {highest} are out of the bounds of an axis of {edge}.")
        if lowest < 0:
            indices = torch.where(indices < 0, indices + edge, indices)
    return indices


def gather(
    x: Tensor,
    indices: Tensor,
    axis: Tensor | int = 0,
    batch_dims: Tensor | int = 0,
    validate_indices: Tensor | bool = False,  # noqa: FBT001, FBT002
) -> Tensor:
    """Gathers slices along an axis, each chosen by an index; the first ``batch_dims`` axes are common to both.

    Returns:
        ``x.shape[:axis] + indices.shape[batch_dims:] + x.shape[axis + 1:]``.
    """
    along = _at(integer(axis), x.ndim)
    common = integer(batch_dims)
    at = _located(indices, x.shape[along], validate_indices)
    target = allow((*x.shape[:along], *indices.shape[common:], *x.shape[along + 1 :]))
    if not common:
        return x.index_select(along, at.reshape(-1)).reshape(target)
    if not 0 <= common <= along or x.shape[:common] != indices.shape[:common]:
        raise UnreadableArtifact(f"Of {tuple(x.shape)} and {tuple(indices.shape)} no {common} axes are common.")
    images = math.prod(x.shape[:common])
    before, after = math.prod(x.shape[common:along]), math.prod(x.shape[along + 1 :])
    at = at.reshape(images, 1, -1, 1)
    rows = x.reshape(images, before, x.shape[along], after)
    return rows.gather(2, at.expand(images, before, at.shape[2], after)).reshape(target)


def gather_along_axis(
    x: Tensor,
    indices: Tensor,
    axis: Tensor | int = 0,
    validate_indices: Tensor | bool = False,  # noqa: FBT001, FBT002
) -> Tensor:
    """Returns for every element of ``indices`` the element of ``x`` at its place, with it as index along the axis."""
    along = _at(integer(axis), x.ndim)
    return x.gather(along, _beside(x, _located(indices, x.shape[along], validate_indices), along))


def _beside(x: Tensor, indices: Tensor, along: int) -> Tensor:
    """Returns the indices, which have the edges of the value but for the axis."""
    if any(axis != along and a != b for axis, (a, b) in enumerate(zip(x.shape, indices.shape, strict=True))):
        raise UnreadableArtifact(f"Indices {tuple(indices.shape)} do not fit to {tuple(x.shape)} but for axis {along}.")
    return indices


def _flat(indices: Tensor, edges: torch.Size, validate: Tensor | bool) -> Tensor:  # noqa: FBT001
    """Places in a value of those edges, given along the last axis of ``indices``, as places in its flat form."""
    at = torch.zeros(indices.shape[:-1], dtype=torch.long)
    for entries, edge in zip(indices.unbind(-1), edges, strict=True):
        at = at * edge + _located(entries, edge, validate)
    return at


def gather_nd(
    x: Tensor,
    indices: Tensor,
    batch_dims: Tensor | int = 0,
    validate_indices: Tensor | bool = False,  # noqa: FBT001, FBT002
) -> Tensor:
    """Gathers slices, each chosen by as many indices as the last axis of ``indices`` holds.

    Returns:
        ``indices.shape[:-1] + x.shape[batch_dims + indices.shape[-1]:]``.
    """
    common, depth = integer(batch_dims), indices.shape[-1]
    if not 0 <= common < indices.ndim or x.shape[:common] != indices.shape[:common]:
        raise UnreadableArtifact(f"Of {tuple(x.shape)} and {tuple(indices.shape)} no {common} axes are common.")
    at = _flat(indices, x.shape[common : common + depth], validate_indices)
    images, rest = math.prod(x.shape[:common]), x.shape[common + depth :]
    target = allow((*indices.shape[:-1], *rest))
    rows = x.reshape(images, math.prod(x.shape[common : common + depth]), math.prod(rest))
    at = at.reshape(images, -1, 1)
    return rows.gather(1, at.expand(-1, -1, rows.shape[2])).reshape(target)


_REDUCTIONS = {"add": "sum", "sub": "sum", "mul": "prod", "div": "prod", "max": "amax", "min": "amin"}
"""Modes of a scatter to the reduction of PyTorch; for the inverse modes the updates are inverted beforehand."""


def _scattered(data: Tensor, along: int, at: Tensor, updates: Tensor, mode: str) -> Tensor:
    """Scatters updates into the data along an axis; several at one place are applied one after the other.

    Half precision is widened where anything is computed.
    """
    if mode == "update":
        return data.scatter(along, at, updates)
    if mode not in _REDUCTIONS:
        raise UnreadableArtifact(f"There is no mode {mode!r} of a scatter.")
    if data.dtype in (torch.float16, torch.bfloat16):
        data, updates = data.float(), updates.float()
    if mode == "div":
        divisor = torch.ones_like(data).scatter_reduce(along, at, updates, "prod")
        return real_div(data, divisor)
    return data.scatter_reduce(along, at, -updates if mode == "sub" else updates, _REDUCTIONS[mode])


def scatter(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: Tensor | int = 0,
    mode: str = "add",
    validate_indices: Tensor | bool = False,  # noqa: FBT001, FBT002
) -> Tensor:
    """Scatters slices along an axis, each to an index."""
    along = _at(integer(axis), data.ndim)
    at = _located(indices, data.shape[along], validate_indices).reshape(-1, *(1,) * (data.ndim - 1 - along))
    return _scattered(data, along, at.expand(_beside(data, updates, along).shape), updates, mode)


def scatter_along_axis(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: Tensor | int = 0,
    mode: str = "add",
    validate_indices: Tensor | bool = False,  # noqa: FBT001, FBT002
) -> Tensor:
    """Scatters elements, each to its own place with its index along the axis."""
    along = _at(integer(axis), data.ndim)
    at = _beside(data, _located(indices, data.shape[along], validate_indices), along)
    return _scattered(data, along, at, updates.reshape(at.shape), mode)


def scatter_nd(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    mode: str = "add",
    validate_indices: Tensor | bool = False,  # noqa: FBT001, FBT002
) -> Tensor:
    """Scatters slices, each to as many indices as the last axis of ``indices`` holds."""
    depth = indices.shape[-1]
    at = _flat(indices, data.shape[:depth], validate_indices).reshape(-1, 1)
    rows = data.reshape(math.prod(data.shape[:depth]), math.prod(data.shape[depth:]))
    spread = updates.reshape(at.shape[0], rows.shape[1])
    return _scattered(rows, 0, at.expand(spread.shape), spread, mode).reshape(data.shape)


def one_hot(
    indices: Tensor,
    one_hot_vector_size: Tensor,
    axis: Tensor | int = -1,
    on_value: Tensor | int = 1,
    off_value: Tensor | int = 0,
) -> Tensor:
    """Per index a vector along a new axis, which has the one value there and the other elsewhere.

    An index that is out of bounds gives a vector of ``off_value``.
    """
    size, along = integer(one_hot_vector_size), _at(integer(axis), indices.ndim + 1)
    allow((*indices.shape, size))
    hot = indices.unsqueeze(along) == torch.arange(size).reshape(-1, *(1,) * (indices.ndim - along))
    return torch.where(hot, torch.as_tensor(on_value), torch.as_tensor(off_value))


def non_zero(x: Tensor) -> Tensor:
    """Returns the places of the elements that are not zero, ``[N, rank]``."""
    return x.nonzero()


def argsort(x: Tensor, axis: Tensor | int = -1, ascending: Tensor | bool = False) -> Tensor:  # noqa: FBT001, FBT002
    """Returns the indices that sort an axis; of equal elements the first comes first."""
    return x.argsort(dim=integer(axis), descending=not flag(ascending), stable=True)


def topk(
    x: Tensor,
    k: Tensor | int = 1,
    axis: Tensor | int = -1,
    ascending: Tensor | bool = False,  # noqa: FBT001, FBT002
    **returned: Tensor | str,
) -> Tensor | tuple[Tensor, Tensor]:
    """Returns the largest or smallest elements along an axis, sorted, and their indices; all of them where ``k`` is -1.

    Of equal elements the first comes first.

    Args:
        x: any shape.
        k: how many.
        axis: the axis.
        ascending: the smallest ones.
        returned: ``return_indices``, True unless given; ``sort`` and ``output_indices_dtype`` change nothing here.
    """
    if not returned.keys() <= {"sort", "return_indices", "output_indices_dtype"}:
        raise UnreadableArtifact(f"The operation topk has no parameters {sorted(returned)}.")
    along = _at(integer(axis), x.ndim)
    values, indices = x.sort(dim=along, descending=not flag(ascending), stable=True)
    count = x.shape[along] if integer(k) == -1 else integer(k)
    wanted = returned.get("return_indices", True)
    if isinstance(wanted, str) or not flag(wanted):
        return values.narrow(along, 0, count)
    return values.narrow(along, 0, count), indices.narrow(along, 0, count)


def non_maximum_suppression(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: Tensor,
    max_boxes: Tensor,
    score_threshold: Tensor | None = None,
    per_class_suppression: Tensor | bool = False,  # noqa: FBT001, FBT002
) -> tuple[Tensor, ...]:
    """Returns the boxes of the best scores that overlap no better one by more than a threshold.

    Core ML's NonMaximumSuppressionLayerParams says what the definition of the operation leaves open: a box has the
    class and the score of its largest score, what is left over is filled with zeros and the index -1, and where no
    score reaches the threshold, the best box is selected all the same.

    Args:
        boxes: ``[n, B, 4]`` of a horizontal and a vertical centre, a width and a height; ``[n, 4, B]`` of iOS17.
        scores: ``[n, B, K]``, or ``[n, K, B]`` of iOS17.
        iou_threshold: intersection over union beyond which a box is dropped.
        max_boxes: how many are returned.
        score_threshold: boxes of lower scores are dropped; iOS17 has none, which is how its form is told.
        per_class_suppression: only boxes of the same class drop each other.

    Returns:
        Boxes and scores in the form of the arguments, their indices ``[n, max_boxes]``, and but for iOS17 how many of
        them are selected ``[n]``.
    """
    last = score_threshold is None
    rows, columns = (boxes.mT, scores.mT) if last else (boxes, scores)
    images, count = rows.shape[0], integer(max_boxes)
    indices = torch.full(allow((images, count)), -1)
    for image in range(images):
        overlapping = _overlapping(rows[image].float(), columns[image].float(), flag(per_class_suppression))
        best = columns[image].float().amax(1)
        order = best.argsort(descending=True, stable=True)
        if score_threshold is not None:
            order = order[: max(1, int((best >= score_threshold).sum()))]
        chosen: list[Tensor] = []
        while order.numel() and len(chosen) < count:
            chosen.append(order[0])
            order = order[1:][overlapping(order[0], order[1:]) <= iou_threshold]
        indices[image, : len(chosen)] = torch.tensor(chosen)
    kept = indices[..., None] >= 0
    found = (value.take_along_dim(indices[..., None].clamp(min=0), 1) * kept for value in (rows, columns))
    if last:
        return (*(value.mT for value in found), indices)
    return (*found, indices, kept.sum((1, 2)))


def _overlapping(boxes: Tensor, scores: Tensor, per_class: bool) -> Callable[[Tensor, Tensor], Tensor]:  # noqa: FBT001
    """Intersection over union of one of the boxes ``[B, 4]`` and others; none between classes that are apart."""
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    areas = boxes[:, 2:].prod(1)
    classes = scores.argmax(1) * per_class

    def overlapping(one: Tensor, others: Tensor) -> Tensor:
        edges = (torch.minimum(high[one], high[others]) - torch.maximum(low[one], low[others])).clamp(min=0)
        common = edges.prod(1) * (classes[one] == classes[others])
        return common / (areas[one] + areas[others] - common).clamp(min=torch.finfo(torch.float32).tiny)

    return overlapping


OPS: Table = {
    "argsort": argsort,
    "gather": gather,
    "gather_along_axis": gather_along_axis,
    "gather_nd": gather_nd,
    "non_maximum_suppression": non_maximum_suppression,
    "non_zero": non_zero,
    "one_hot": one_hot,
    "scatter": scatter,
    "scatter_along_axis": scatter_along_axis,
    "scatter_nd": scatter_nd,
    "slice_by_index": slice_by_index,
    "slice_by_size": slice_by_size,
    "slice_update": slice_update,
    "topk": topk,
}
