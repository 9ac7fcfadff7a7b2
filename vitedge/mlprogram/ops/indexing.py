# SPDX-License-Identifier: Apache-2.0
"""Operations that choose values by index.

Nothing is computed, so float16 stays float16; where a scatter adds or multiplies, it widens by itself.

Indices count from 0; negative ones count from the end, which iOS15 and iOS16 say and iOS17 leaves undefined, unless
``validate_indices`` forbids them. An index beyond the end, which iOS17 leaves undefined too, is an error here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vitedge.errors import UnreadableArtifact
from vitedge.mlprogram.ops.arguments import Table, allow, flag, integer, ints


@dataclass(frozen=True)
class Selection:
    """What `slice_by_index` and `slice_update` select: per axis a begin, an end and a stride, or one element."""

    begin: Tensor
    end: Tensor
    stride: Tensor | None = None
    begin_mask: Tensor | None = None
    """Where the begin is left out."""
    end_mask: Tensor | None = None
    """Where the end is left out."""
    squeeze_mask: Tensor | None = None
    """Where the element at the begin is selected, and its axis left out."""

    def slices(self, edges: torch.Size) -> tuple[tuple[slice, ...], list[int], list[int]]:
        """Slices with positive strides, the axes to turn round after them, and then the axes to leave out."""
        rank = len(edges)
        none = (False,) * rank
        strides = ints(self.stride) or (1,) * rank
        masks = (ints(mask) or none for mask in (self.begin_mask, self.end_mask, self.squeeze_mask))
        entries = zip(edges, ints(self.begin), ints(self.end), strides, *masks, strict=True)
        slices: list[slice] = []
        turned: list[int] = []
        single: list[int] = []
        for axis, (edge, begin, end, stride, from_start, to_end, one) in enumerate(entries):
            if one:
                at = 0 if from_start else _at(begin, edge)
                slices.append(slice(at, at + 1))
                single.append(axis)
                continue
            found = range(*slice(None if from_start else begin, None if to_end else end, stride).indices(edge))
            if stride < 0:
                found = found[::-1]
                turned.append(axis)
            slices.append(slice(found.start, found.stop, found.step) if found else slice(0))
        return tuple(slices), turned, single


def _at(index: int, edge: int) -> int:
    if not -edge <= index < edge:
        raise UnreadableArtifact(f"The index {index} is out of the bounds of an axis of {edge}.")
    return index % edge


def slice_by_index(x: Tensor, **selection: Tensor) -> Tensor:
    """The elements of a `Selection`, as NumPy's ``x[begin:end:stride]`` per axis."""
    slices, turned, single = Selection(**selection).slices(x.shape)
    chosen = x[slices]
    if turned:
        chosen = chosen.flip(turned)
    return chosen.squeeze(single) if single else chosen


def slice_update(x: Tensor, update: Tensor, **selection: Tensor) -> Tensor:
    """The value with the elements of a `Selection` replaced."""
    slices, turned, _ = Selection(**selection).slices(x.shape)
    updated = x.clone(memory_format=torch.contiguous_format)
    place = updated[slices]
    place.copy_(update.reshape(place.shape).flip(turned))
    return updated


def slice_by_size(x: Tensor, begin: Tensor, size: Tensor) -> Tensor:
    """As many elements from ``begin`` on as ``size`` says per axis, or all the rest where that is -1."""
    slices = []
    for edge, first, length in zip(x.shape, ints(begin), ints(size), strict=True):
        start = first + edge if first < 0 else first
        stop = edge if length == -1 else start + length
        if not 0 <= start <= stop <= edge:
            raise UnreadableArtifact(f"There are no {length} elements from {first} on along an axis of {edge}.")
        slices.append(slice(start, stop))
    return x[tuple(slices)]


def _located(indices: Tensor, edge: int, validate: Tensor | bool) -> Tensor:  # noqa: FBT001  (MIL's own parameter)
    """Indices along an axis, counted from its start.

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
    """Slices along an axis, each chosen by an index; the first ``batch_dims`` axes are common to both.

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
    """For every element of ``indices`` the element of ``x`` at the same place but for the axis, where it says."""
    along = _at(integer(axis), x.ndim)
    return x.gather(along, _beside(x, _located(indices, x.shape[along], validate_indices), along))


def _beside(x: Tensor, indices: Tensor, along: int) -> Tensor:
    """The indices, which have the edges of the value but for the axis."""
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
    """Slices, each chosen by as many indices as the last axis of ``indices`` holds.

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


OPS: Table = {
    "gather": gather,
    "gather_along_axis": gather_along_axis,
    "gather_nd": gather_nd,
    "slice_by_index": slice_by_index,
    "slice_by_size": slice_by_size,
    "slice_update": slice_update,
}
