# SPDX-License-Identifier: Apache-2.0
"""Constants that a package keeps compressed: quantized, palettized, sparse, and two of these together.

Every form has two encodings. The first (iOS16) packs indices and masks into bytes, from the lowest bit on, and names
the shape that comes out; the second (iOS18) has types of fewer than eight bits, and blocks. They are decompressed once,
while a program is prepared.

The functions get float16 as it is and compute in the type that the operation does, with its roundings, so that the
constants are coremltools' own, bit for bit. In its older encoding a quantized constant is computed in float32 and
rounded once; in the newer one in the type of its scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vitedge.errors import UnreadableArtifact
from vitedge.mlprogram.blobs import ELEMENT_TYPES, ElementType, unpack
from vitedge.mlprogram.ops.arguments import Table, allow, dtype_of, integer, ints
from vitedge.mlprogram.ops.quantization import dequantize

_INDICES = {2**e.bits: e for e in ELEMENT_TYPES.values() if e.name.startswith("uint") and e.bits <= 8}
"""Number of palettes to the type of an index into them."""
_MASK = _INDICES[2]


def constexpr_affine_dequantize(quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: Tensor) -> Tensor:
    """``(quantized_data - zero_point) * scale``, with one scale or one per index of the axis.

    Raises:
        UnreadableArtifact: the parameters do not fit the data.
    """
    return dequantize(quantized_data, scale, zero_point, axis).to(scale.dtype)


def constexpr_cast(source_val: Tensor, output_dtype: str) -> Tensor:
    """Returns the same numbers in another element type."""
    return source_val.to(dtype_of(output_dtype))


def constexpr_blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """``scale * (data - offset)`` in the type of the scale.

    Args:
        data: numbers of any type.
        scale: of the rank of the data; each of its edges divides that of the data and so implies the block's.
        offset: of the shape of the scale.

    Raises:
        UnreadableArtifact: they do not fit together.
    """
    if offset is not None and offset.shape != scale.shape:
        raise UnreadableArtifact(f"Offsets {tuple(offset.shape)} do not fit scales {tuple(scale.shape)}.")
    values = data.to(scale.dtype).reshape(_blocks(data.shape, scale.shape))
    apart = [edge for count in scale.shape for edge in (count, 1)]
    if offset is not None:
        values = values - offset.reshape(apart)
    return (scale.reshape(apart) * values).reshape(data.shape)


def constexpr_lut_to_dense(
    indices: Tensor, lut: Tensor, shape: Tensor | None = None, vector_axis: Tensor | None = None
) -> Tensor:
    """Returns the values that indices stand for in their look-up tables.

    Args:
        indices: packed, of the width that the table implies; or of the shape that comes out.
        lut: one table, flat; or ``(groups along every axis of the indices, palettes, vector)``.
        shape: that comes out, where the indices are packed.
        vector_axis: along which the numbers of one palette follow each other, where it has several.

    Raises:
        UnreadableArtifact: they do not fit together, or what comes out is too large.
    """
    if shape is None:
        return _looked_up(indices, lut, vector_axis)
    element = _INDICES.get(lut.numel())
    if element is None or lut.ndim != 1:
        raise UnreadableArtifact(f"A look-up table of shape {tuple(lut.shape)} has no index type.")
    return lut.index_select(0, _unpacked(indices, element, ints(shape)).int().reshape(-1)).reshape(ints(shape))


def constexpr_sparse_to_dense(nonzero_data: Tensor, mask: Tensor, shape: Tensor | None = None) -> Tensor:
    """Returns the data where the mask is set, in row-major order, and zero elsewhere.

    Args:
        nonzero_data: flat.
        mask: of the shape that comes out, or packed.
        shape: that comes out, where the mask is packed.

    Raises:
        UnreadableArtifact: the mask does not fit the data or the shape.
    """
    return _scattered(nonzero_data, mask if shape is None else _unpacked(mask, _MASK, ints(shape)))


def constexpr_lut_to_sparse(
    indices_mask: Tensor, indices_nonzero_data: Tensor, lut: Tensor, vector_axis: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Returns the mask and the nonzero data of a sparse constant whose nonzero data are palettized.

    Args:
        indices_mask: of the shape of the indices.
        indices_nonzero_data: the indices where it is set.
        lut: as for `constexpr_lut_to_dense`.
        vector_axis: as for it; the mask that comes out is repeated along it.

    Raises:
        UnreadableArtifact: they do not fit together, or what comes out is too large.
    """
    dense = _looked_up(_scattered(indices_nonzero_data, indices_mask), lut, vector_axis)
    mask = indices_mask
    if vector_axis is not None:
        mask = mask.repeat_interleave(lut.shape[-1], dim=integer(vector_axis))
    return mask, dense[mask != 0]


def constexpr_sparse_blockwise_shift_scale(
    data_mask: Tensor, nonzero_data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Returns the mask and the nonzero data of a sparse constant whose nonzero data are quantized.

    Args:
        data_mask: of the shape of the constant.
        nonzero_data: the quantized numbers where it is set.
        scale: as for `constexpr_blockwise_shift_scale`, in blocks of the mask.
        offset: as for it.

    Raises:
        UnreadableArtifact: they do not fit together.
    """
    dense = constexpr_blockwise_shift_scale(_scattered(nonzero_data, data_mask), scale, offset)
    return data_mask, dense[data_mask != 0]


def _looked_up(indices: Tensor, lut: Tensor, vector_axis: Tensor | None) -> Tensor:
    if lut.ndim != indices.ndim + 2:
        raise UnreadableArtifact(f"Look-up tables {tuple(lut.shape)} do not fit indices {tuple(indices.shape)}.")
    *groups, palettes, size = lut.shape
    if size > 1 and vector_axis is None:
        raise UnreadableArtifact("A look-up table of vectors names no axis to lay them along.")
    allow((indices.numel(), size))
    if int(indices.max()) >= palettes:
        raise UnreadableArtifact(f"An index is {int(indices.max())} in a look-up table of {palettes}.")
    blocks = _blocks(indices.shape, groups)
    starts = torch.arange(math.prod(groups), dtype=torch.int32) * palettes
    places = indices.int().reshape(blocks) + starts.reshape([edge for count in groups for edge in (count, 1)])
    found = lut.reshape(-1, size).index_select(0, places.reshape(-1)).reshape(*indices.shape, size)
    axis = 0 if vector_axis is None else range(indices.ndim)[integer(vector_axis)]
    return found.movedim(-1, axis + 1).flatten(axis, axis + 1)


def _scattered(data: Tensor, mask: Tensor) -> Tensor:
    set_ = mask != 0
    count = int(set_.sum())
    if data.shape != (count,):
        raise UnreadableArtifact(f"A mask marks {count} values and there are {data.numel()}.")
    return data.new_zeros(mask.shape).masked_scatter_(set_, data)


def _blocks(shape: Sequence[int], counts: Sequence[int]) -> list[int]:
    """Returns every edge of the shape as the number of its blocks and the length of one.

    Raises:
        UnreadableArtifact: a count does not divide its edge, or there is not one for each.
    """
    if len(shape) != len(counts) or any(count < 1 or edge % count for edge, count in zip(shape, counts, strict=False)):
        raise UnreadableArtifact(f"A value of shape {tuple(shape)} does not divide into {tuple(counts)} blocks.")
    return [part for edge, count in zip(shape, counts, strict=True) for part in (count, edge // count)]


def _unpacked(packed: Tensor, element: ElementType, shape: tuple[int, ...]) -> Tensor:
    """Bytes to numbers of fewer bits, in the given shape."""
    count = math.prod(allow(shape))
    if packed.ndim != 1 or len(packed) != -(-count * element.bits // 8):
        raise UnreadableArtifact(f"{packed.numel()} bytes do not hold {count} values of {element.bits} bits.")
    return torch.from_numpy(unpack(packed.numpy(), element, count)).reshape(shape)


OPS: Table = {
    "constexpr_affine_dequantize": constexpr_affine_dequantize,
    "constexpr_blockwise_shift_scale": constexpr_blockwise_shift_scale,
    "constexpr_cast": constexpr_cast,
    "constexpr_lut_to_dense": constexpr_lut_to_dense,
    "constexpr_lut_to_sparse": constexpr_lut_to_sparse,
    "constexpr_sparse_blockwise_shift_scale": constexpr_sparse_blockwise_shift_scale,
    "constexpr_sparse_to_dense": constexpr_sparse_to_dense,
}
