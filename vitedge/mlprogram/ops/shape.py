# SPDX-License-Identifier: Apache-2.0
"""Operations that only move or reshape values, or make values of a given shape.

Nothing is computed, so float16 stays float16.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the name that everybody gives it)

from vitedge.errors import UnreadableArtifact
from vitedge.mlprogram.ops.arguments import Table, allow, flag, integer, ints, number


def identity(x: Tensor) -> Tensor:
    """Returns the value itself."""
    return x


def shape(x: Tensor) -> Tensor:
    """Returns the shape of a value, a vector of int32."""
    return torch.tensor(x.shape, dtype=torch.int32)


def reshape(x: Tensor, shape: Tensor) -> Tensor:
    """Returns the same elements in another shape; -1 is inferred.

    A 0 takes the edge of ``x`` that is as far from the right, or 1 beyond its rank (iOS17); where the ranks are equal,
    which iOS15 demands, that is the edge at the same place.
    """
    target = ints(shape)
    if 0 in target:
        edges = (1,) * max(0, len(target) - x.ndim) + tuple(x.shape)
        edges = edges[len(edges) - len(target) :]
        target = tuple(edge or inherited for edge, inherited in zip(target, edges, strict=True))
    return x.reshape(target)


def reshape_like(
    x: Tensor,
    ref_tensors: Sequence[Tensor],
    begins: Sequence[Tensor],
    ends: Sequence[Tensor],
    end_masks: Sequence[Tensor],
) -> Tensor:
    """Returns the same elements in a shape that is pieced together from pieces of the shapes of others."""
    target: list[int] = []
    for reference, begin, end, to_the_end in zip(ref_tensors, begins, ends, end_masks, strict=True):
        target += reference.shape[integer(begin) : None if flag(to_the_end) else integer(end)]
    return x.reshape(target)


def transpose(x: Tensor, perm: Tensor) -> Tensor:
    """Axes in another order."""
    return x.permute(ints(perm))


def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Removes the axes of length 1, or those of the named ones that are of length 1."""
    return x.squeeze() if axes is None else x.squeeze(ints(axes))


def expand_dims(x: Tensor, axes: Tensor) -> Tensor:
    """Inserts axes of length 1 at the named positions of the result."""
    named = ints(axes)
    rank = x.ndim + len(named)
    for axis in sorted(axis % rank if -rank <= axis < rank else axis for axis in named):
        x = x.unsqueeze(axis)
    return x


def flatten2d(x: Tensor, axis: Tensor | int = 1) -> Tensor:
    """A matrix: the axes before ``axis`` in one, and the others in one."""
    cut = integer(axis)
    return x.reshape(math.prod(x.shape[:cut]), math.prod(x.shape[cut:]))


def concat(values: Sequence[Tensor], axis: Tensor, interleave: Tensor | bool = False) -> Tensor:  # noqa: FBT001, FBT002
    """Concatenates values along an axis, or interleaves them element by element."""
    along = integer(axis)
    if values[0].ndim == 0:
        return torch.stack(list(values))
    if flag(interleave):
        along %= values[0].ndim
        return torch.stack(list(values), along + 1).flatten(along, along + 1)
    return torch.cat(list(values), along)


def stack(values: Sequence[Tensor], axis: Tensor) -> Tensor:
    """Stacks values of one shape along a new axis."""
    return torch.stack(list(values), integer(axis))


def split(
    x: Tensor, axis: Tensor, num_splits: Tensor | None = None, split_sizes: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Consecutive pieces along an axis: of the given sizes, or as many equal ones as asked for."""
    along = integer(axis)
    if split_sizes is not None:
        return tuple(x.split_with_sizes(ints(split_sizes), along))
    pieces = 0 if num_splits is None else integer(num_splits)
    if not 1 <= pieces <= max(1, x.shape[along]) or x.shape[along] % pieces:
        raise UnreadableArtifact(f"An axis of {x.shape[along]} is not to be split into {pieces} equal pieces.")
    return tuple(x.split_with_sizes([x.shape[along] // pieces] * pieces, along))


def tile(x: Tensor, reps: Tensor) -> Tensor:
    """Repeats the value along every axis."""
    repeats = ints(reps)
    allow([edge * times for edge, times in zip(x.shape, repeats, strict=True)])
    return x.repeat(repeats)


def reverse(x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Reverses the named axes, or all of them."""
    return x.flip(tuple(range(x.ndim)) if axes is None else ints(axes))


def reverse_sequence(x: Tensor, lengths: Tensor, seq_axis: Tensor | int = 0, batch_axis: Tensor | int = 0) -> Tensor:
    """Reverses the first ``lengths`` elements of every sequence of a batch."""
    places = (integer(batch_axis), integer(seq_axis))
    batch = x.movedim(places, (0, 1))
    ends = lengths.reshape(-1, 1).long()
    if ends.shape[0] != batch.shape[0] or bool(((ends < 0) | (ends > batch.shape[1])).any()):
        raise UnreadableArtifact(f"The lengths {ints(lengths)} are none of {tuple(batch.shape[:2])} sequences.")
    at = torch.arange(batch.shape[1]).expand(batch.shape[:2])
    at = torch.where(at < ends, ends - 1 - at, at)
    return batch[torch.arange(batch.shape[0])[:, None], at].movedim((0, 1), places)


def pad(x: Tensor, pad: Tensor, mode: str = "constant", constant_val: Tensor | float = 0.0) -> Tensor:
    """Pads the last axes at both ends: by a constant, by reflection without the edge, or by repeating the edge.

    Args:
        x: any shape.
        pad: for each of the last axes, first to last, how many elements are added before and after.
        mode: ``constant``, ``reflect`` (at most an axis' length less one) or ``replicate``.
        constant_val: what is added in the mode ``constant``.
    """
    amounts = ints(pad)
    if len(amounts) % 2 or len(amounts) > 2 * x.ndim or any(amount < 0 for amount in amounts):
        raise UnreadableArtifact(f"A value of {x.ndim} axes is not to be padded by {amounts}.")
    pairs = ((0, 0),) * (x.ndim - len(amounts) // 2) + tuple(zip(amounts[::2], amounts[1::2], strict=True))
    allow([edge + before + after for edge, (before, after) in zip(x.shape, pairs, strict=True)])
    if mode == "constant":
        return F.pad(x, [amount for pair in reversed(pairs) for amount in pair], value=number(constant_val))
    for axis, (before, after) in enumerate(pairs):
        if before or after:
            x = x.index_select(axis, _padded(x.shape[axis], before, after, mode))
    return x


def _padded(edge: int, before: int, after: int, mode: str) -> Tensor:
    """Which elements of an axis stand along the padded one."""
    at = torch.arange(-before, edge + after)
    if mode == "replicate":
        return at.clamp(0, edge - 1)
    if mode == "reflect" and max(before, after) < edge:
        return edge - 1 - (edge - 1 - at.abs()).abs()
    raise UnreadableArtifact(f"An axis of {edge} is not to be padded by ({before}, {after}) in the mode {mode!r}.")


def fill(shape: Tensor, value: Tensor | float = 0.0) -> Tensor:
    """Fills a shape with one value."""
    return torch.as_tensor(value).expand(allow(ints(shape))).clone()


def fill_like(ref_tensor: Tensor, value: Tensor | float = 0.0) -> Tensor:
    """Fills the shape of another value with one value."""
    return torch.as_tensor(value).expand(ref_tensor.shape).clone()


def range_1d(start: Tensor, end: Tensor, step: Tensor) -> Tensor:
    """Numbers from ``start`` on by ``step``, up to ``end`` and without it."""
    if start.is_floating_point():
        steps = float(((end - start) / step).ceil())  # as MIL counts them: in the numbers' own precision
    else:
        steps = -((integer(start) - integer(end)) // integer(step)) if integer(step) else math.nan
    if not math.isfinite(steps):
        raise UnreadableArtifact(f"There is no end to a range from {start} to {end} by {step}.")
    (count,) = allow((max(0, int(steps)),))
    wide = torch.float64 if start.is_floating_point() else torch.int64
    return (start.to(wide) + torch.arange(count) * step.to(wide)).to(start.dtype)


def band_part(x: Tensor, lower: Tensor | int = -1, upper: Tensor | int = -1) -> Tensor:
    """Zero outside a band around the diagonal of the last two axes; a negative width is all of that side."""
    below = torch.arange(x.shape[-2])[:, None] - torch.arange(x.shape[-1])
    inside = torch.ones_like(below, dtype=torch.bool)
    if integer(lower) >= 0:
        inside &= below <= integer(lower)
    if integer(upper) >= 0:
        inside &= -below <= integer(upper)
    return x.masked_fill(~inside, 0)


def space_to_depth(x: Tensor, block_size: Tensor) -> Tensor:
    """Moves blocks of ``[n, C, H, W]`` to channels, the place in the block before the channel."""
    n, c, h, w, b = *x.shape, _positive(block_size)
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, b * b * c, h // b, w // b)


def depth_to_space(x: Tensor, block_size: Tensor) -> Tensor:
    """Moves channels of ``[n, C, H, W]`` to blocks: the inverse of `space_to_depth`."""
    n, c, h, w, b = *x.shape, _positive(block_size)
    return x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // (b * b), h * b, w * b)


def pixel_shuffle(x: Tensor, upscale_factor: Tensor) -> Tensor:
    """Moves channels of ``[n, C, H, W]`` to blocks, where the channel stands before the place in the block."""
    return F.pixel_shuffle(x, _positive(upscale_factor))


def pixel_unshuffle(x: Tensor, downscale_factor: Tensor) -> Tensor:
    """Moves blocks of ``[n, C, H, W]`` to channels: the inverse of `pixel_shuffle`."""
    return F.pixel_unshuffle(x, _positive(downscale_factor))


def _positive(factor: Tensor) -> int:
    if integer(factor) < 1:
        raise UnreadableArtifact(f"There are no blocks of {integer(factor)}.")
    return integer(factor)


def space_to_batch(x: Tensor, block_shape: Tensor, paddings: Tensor) -> Tensor:
    """Moves blocks of ``[n, C, H, W]``, padded with zeros, to the batch, the place in the block before the image."""
    bh, bw = (_positive(edge) for edge in block_shape)
    x = pad(x, paddings)
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // bh, bh, w // bw, bw).permute(3, 5, 0, 1, 2, 4)
    return blocks.reshape(bh * bw * n, c, h // bh, w // bw)


def batch_to_space(x: Tensor, block_shape: Tensor, crops: Tensor) -> Tensor:
    """Moves the batch back to blocks, which are cropped: the inverse of `space_to_batch`."""
    bh, bw = (_positive(edge) for edge in block_shape)
    n, c, h, w = x.shape
    blocks = x.reshape(bh, bw, n // (bh * bw), c, h, w).permute(2, 3, 4, 0, 5, 1)
    return crop(blocks.reshape(n // (bh * bw), c, h * bh, w * bw), *crops)


def crop(x: Tensor, crop_height: Tensor, crop_width: Tensor) -> Tensor:
    """Cuts off rows at the top and the bottom and columns at the left and the right."""
    for axis, amounts in ((x.ndim - 2, crop_height), (x.ndim - 1, crop_width)):
        before, after = ints(amounts)
        if before < 0 or after < 0:
            raise UnreadableArtifact(f"An edge is not to be cropped by ({before}, {after}).")
        x = x.narrow(axis, before, x.shape[axis] - before - after)
    return x


def sliding_windows(x: Tensor, axis: Tensor, size: Tensor, stride: Tensor | int = 1) -> Tensor:
    """Returns all windows along an axis; the place in the window is the axis after it."""
    along = integer(axis) % x.ndim
    return x.unfold(along, integer(size), integer(stride)).movedim(-1, along + 1)


OPS: Table = {
    "band_part": band_part,
    "batch_to_space": batch_to_space,
    "concat": concat,
    "crop": crop,
    "depth_to_space": depth_to_space,
    "expand_dims": expand_dims,
    "fill": fill,
    "fill_like": fill_like,
    "flatten2d": flatten2d,
    "identity": identity,
    "pad": pad,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "range_1d": range_1d,
    "reshape": reshape,
    "reshape_like": reshape_like,
    "reverse": reverse,
    "reverse_sequence": reverse_sequence,
    "shape": shape,
    "sliding_windows": sliding_windows,
    "space_to_batch": space_to_batch,
    "space_to_depth": space_to_depth,
    "split": split,
    "squeeze": squeeze,
    "stack": stack,
    "tile": tile,
    "transpose": transpose,
}
