# SPDX-License-Identifier: Apache-2.0
"""Convolutions and pooling over one to three spatial edges."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the name that everybody gives it)

from vitedge.errors import UnreadableArtifact
from vitedge.mlprogram.ops.arguments import Table, allow, flag, integer, ints

NO = torch.zeros((), dtype=torch.bool)
ONE = torch.ones((), dtype=torch.int32)
_CONV: Sequence[Callable[..., Tensor]] = (F.conv1d, F.conv2d, F.conv3d)
_CONV_TRANSPOSE: Sequence[Callable[..., Tensor]] = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
_AVERAGE: Sequence[Callable[..., Tensor]] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
_MAX: Sequence[Callable[..., Tensor]] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)


@dataclass(frozen=True)
class Window:
    """A window that slides over the spatial edges of a value; one entry for each of them."""

    kernel: tuple[int, ...]
    """Extent, holes of the dilation included."""
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    """Padding in front of an edge."""
    after: tuple[int, ...]

    def reach(self, edges: Sequence[int]) -> tuple[int, ...]:
        """How many places the window has along each edge.

        Raises:
            UnreadableArtifact: it has none.
        """
        padded = [sum(entry) for entry in zip(edges, self.before, self.after, strict=True)]
        places = [
            (edge - kernel) // stride + 1
            for edge, kernel, stride in zip(padded, self.kernel, self.strides, strict=True)
        ]
        if min(places) < 1:
            raise UnreadableArtifact(f"A window of {self.kernel} does not fit into {tuple(padded)}.")
        return tuple(places)


def conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, groups: Tensor = ONE, **window: Any) -> Tensor:
    """Convolution of ``x`` (n, channels, edges...) with ``weight`` (outputs, channels / groups, kernel...).

    Args:
        x: the value.
        weight: the filters.
        bias: one number for each output channel.
        groups: in how many parts the channels are convolved by themselves.
        **window: ``strides``, ``pad_type``, ``pad`` and ``dilations`` of MIL.
    """
    parts = integer(groups)
    slide = _window(x, weight.shape[2:], **window)
    allow((x.shape[0], weight.shape[0], *slide.reach(x.shape[2:])))
    padding: tuple[int, ...] = slide.before
    if slide.before != slide.after:
        x, padding = _padded(x, slide.before, slide.after), (0,) * len(padding)
    bias = None if bias is None else bias.to(x.dtype)
    convolve = _CONV[x.ndim - 3]
    return convolve(x, weight.to(x.dtype), bias, slide.strides, padding, slide.dilations, parts)


def conv_quantized(
    x: Tensor, weight: Tensor, quant_scale: Tensor, quant_bias: Tensor, quantization_type: str, **settings: Any
) -> Tensor:
    """`conv` with the filters ``weight * quant_scale + quant_bias``, both for all filters or one for each."""
    settings.pop("nbits", None)  # how the weights were stored; they arrive as numbers
    if quantization_type != "linear":
        raise UnreadableArtifact(f"There is no rule for conv_quantized of the type {quantization_type!r}.")
    scale, offset = (value.reshape(-1, *(1,) * (weight.ndim - 1)).to(x.dtype) for value in (quant_scale, quant_bias))
    return conv(x, weight.to(x.dtype) * scale + offset, **settings)


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    groups: Tensor = ONE,
    output_shape: Tensor | None = None,
    **window: Any,
) -> Tensor:
    """Returns the transpose of `conv`: ``weight`` is (channels, outputs / groups, kernel...).

    The padding of the convolution that it turns around is cut off; where ``output_shape`` reaches further than the
    windows do, nothing but the bias is there.

    Args:
        x: (n, channels, edges...).
        weight: the filters.
        bias: one number for each output channel.
        groups: in how many parts the channels are convolved by themselves.
        output_shape: the whole shape of the result, which the padding ``same`` leaves open.
        **window: ``strides``, ``dilations``, ``pad_type`` and ``pad`` of MIL; ``pad`` is what is cut off before and
            after each edge where ``pad_type`` is ``custom``.
    """
    pad_type, pad = window.pop("pad_type", "valid"), window.pop("pad", None)
    # Padding does not enter the sum: it only says which part of it is kept.
    slide = _window(x, weight.shape[2:], **window)
    full = [
        (edge - 1) * stride + kernel
        for edge, stride, kernel in zip(x.shape[2:], slide.strides, slide.kernel, strict=True)
    ]
    cut, edges = _kept(x, slide, full, pad_type, ints(pad))
    if output_shape is not None:
        edges = ints(output_shape)[2:]
        if pad_type in ("same", "same_lower"):
            cut = _same(edges, slide.kernel, slide.strides, pad_type)[0]
    parts = integer(groups)
    allow((x.shape[0], weight.shape[1] * parts, *full))
    allow((x.shape[0], weight.shape[1] * parts, *edges))
    transpose = _CONV_TRANSPOSE[x.ndim - 3]
    found = transpose(x, weight.to(x.dtype), None, slide.strides, 0, 0, parts, slide.dilations)
    after = [edge + before - size for edge, before, size in zip(edges, cut, full, strict=True)]
    found = _padded(found, [-before for before in cut], after)  # a negative padding cuts off
    return found if bias is None else found + bias.to(x.dtype).reshape(-1, *(1,) * len(edges))


def max_pool(x: Tensor, kernel_sizes: Tensor, **window: Any) -> Tensor:
    """Returns the largest number of every window of ``x`` (n, channels, edges...), padding left aside."""
    slide, overhang = _pooling(x, kernel_sizes, **window)
    padded = _padded(x, slide.before, overhang, -math.inf)
    return _MAX[x.ndim - 3](padded, slide.kernel, slide.strides)


def avg_pool(x: Tensor, kernel_sizes: Tensor, exclude_padding_from_average: Tensor = NO, **window: Any) -> Tensor:
    """Returns the mean of every window of ``x`` (n, channels, edges...).

    What ``ceil_mode`` lets a window reach beyond the padding counts for nothing, as in PyTorch; the padding counts as
    zeros, unless it is excluded.
    """
    slide, overhang = _pooling(x, kernel_sizes, **window)
    average = _AVERAGE[x.ndim - 3]
    mean = average(_padded(x, slide.before, overhang), slide.kernel, slide.strides)
    if not any((*slide.before, *overhang)):
        return mean
    none = (0,) * len(slide.before)
    before, after = (none, none) if flag(exclude_padding_from_average) else (slide.before, slide.after)
    counted = _padded(x.new_ones((1, 1, *x.shape[2:])), before, after, 1)
    front = [whole - part for whole, part in zip(slide.before, before, strict=True)]
    behind = [whole - part for whole, part in zip(overhang, after, strict=True)]
    share = average(_padded(counted, front, behind), slide.kernel, slide.strides)
    return mean / share


def l2_pool(x: Tensor, kernel_sizes: Tensor, **window: Any) -> Tensor:
    """Returns the root of the sum of the squares of every window of ``x`` (n, channels, edges...).

    That it is the sum and not the mean is what coremltools' own tests expect of Core ML.
    """
    slide, overhang = _pooling(x, kernel_sizes, **window)
    mean = _AVERAGE[x.ndim - 3](_padded(x.square(), slide.before, overhang), slide.kernel, slide.strides)
    return (mean * math.prod(slide.kernel)).sqrt()


def _window(
    x: Tensor,
    kernel: Sequence[int],
    strides: Tensor | None = None,
    pad_type: str = "valid",
    pad: Tensor | None = None,
    dilations: Tensor | None = None,
) -> Window:
    """Returns the geometry that MIL's parameters give a kernel over ``x``."""
    edges = x.shape[2:]
    ones = (1,) * len(edges)
    stride, dilation = ints(strides) or ones, ints(dilations) or ones
    if not 1 <= len(edges) <= 3 or any(len(entry) != len(edges) for entry in (kernel, stride, dilation)):
        raise UnreadableArtifact(f"A window of {tuple(kernel)} does not slide over a value of {tuple(x.shape)}.")
    if min((*kernel, *stride, *dilation)) < 1:
        raise UnreadableArtifact(f"A window of {tuple(kernel)} does not move by {stride} with dilation {dilation}.")
    pad_type = pad_type.lower()  # MIL takes either for pooling
    extent = tuple((size - 1) * step + 1 for size, step in zip(kernel, dilation, strict=True))
    if pad_type in ("same", "same_lower"):
        before, after = _same(edges, extent, stride, pad_type)
    else:
        before, after = _given(len(edges), pad_type, ints(pad))
    return Window(extent, stride, dilation, before, after)


def _given(rank: int, pad_type: str, pad: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Padding before and after each of ``rank`` edges that is said outright."""
    if pad_type not in ("valid", "custom"):
        raise UnreadableArtifact(f"There is no pad_type {pad_type!r}.")
    if pad_type == "valid" or not pad:
        return (0,) * rank, (0,) * rank
    if len(pad) != 2 * rank or min(pad) < 0:
        raise UnreadableArtifact(f"A padding of {pad} does not fit a value of {rank} spatial edges.")
    return pad[::2], pad[1::2]


def _same(
    edges: Sequence[int], extent: Sequence[int], strides: Sequence[int], pad_type: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Padding with which there are ceil(edge / stride) windows; an odd one goes behind, with same_lower in front."""
    odd = pad_type == "same_lower"
    whole = [
        max(0, (math.ceil(edge / stride) - 1) * stride + size - edge)
        for edge, size, stride in zip(edges, extent, strides, strict=True)
    ]
    before = tuple((total + odd) // 2 for total in whole)
    return before, tuple(total - part for total, part in zip(whole, before, strict=True))


def _kept(
    x: Tensor, slide: Window, full: Sequence[int], pad_type: str, pad: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns how much of a transposed convolution's result is cut off in front, and the length of the rest."""
    if pad_type in ("same", "same_lower"):
        edges = tuple(edge * stride for edge, stride in zip(x.shape[2:], slide.strides, strict=True))
        return _same(edges, slide.kernel, slide.strides, pad_type)[0], edges
    before, after = _given(len(full), pad_type, pad)
    return before, tuple(size - sum(cut) for size, cut in zip(full, zip(before, after, strict=True), strict=True))


def _pooling(x: Tensor, kernel_sizes: Tensor, ceil_mode: Tensor = NO, **window: Any) -> tuple[Window, tuple[int, ...]]:
    """Returns the window, and the padding behind each edge, enlarged where ``ceil_mode`` needs it."""
    slide = _window(x, ints(kernel_sizes), **window)
    slide.reach(x.shape[2:])
    if not flag(ceil_mode):
        return slide, slide.after
    beyond = []
    for edge, size, stride, before, after in zip(
        x.shape[2:], slide.kernel, slide.strides, slide.before, slide.after, strict=True
    ):
        padded = edge + before + after
        places = (padded - size + stride - 1) // stride + 1
        if (places - 1) * stride >= edge + before and before + after > 0:
            places -= 1  # it would begin behind the value
        beyond.append(max(after, after + (places - 1) * stride + size - padded))
    return slide, tuple(beyond)


def _padded(x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0) -> Tensor:
    """``x`` with its spatial edges padded; a negative number cuts off."""
    if not any((*before, *after)):
        return x
    allow((*x.shape[:2], *(sum(entry) for entry in zip(x.shape[2:], before, after, strict=True))))
    # PyTorch counts from the last edge.
    pairs = [part for pair in zip(reversed(before), reversed(after), strict=True) for part in pair]
    return F.pad(x, pairs, value=value)


OPS: Table = {
    "conv": conv,
    "conv_quantized": conv_quantized,
    "conv_transpose": conv_transpose,
    "max_pool": max_pool,
    "avg_pool": avg_pool,
    "l2_pool": l2_pool,
}
