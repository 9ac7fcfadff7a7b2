# SPDX-License-Identifier: Apache-2.0
"""Stores weights with many zeros as what is not zero and a mask of one bit a weight; the values stay the same.

Every device expands them, when it loads the model or while it computes; the file gets smaller, and no time is promised.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from vitedge.mlprogram.blobs import Array

_LAYERS = ("linear", "conv")
_QUANTIZED = "constexpr_blockwise_shift_scale"
_SMALLEST = 1024
"""Weights with fewer values are not worth an operation."""
_SAVING = 0.1
"""Share of a weight's bits from which it is stored sparse."""


def store_sparse(ct: Any, program: Any, target: Any) -> int:
    """Replaces the weights of linear layers and convolutions that are smaller so, in place.

    Integers of quantized weights have a sparse form from iOS18 on; before, they stay as they are.

    Args:
        ct: coremltools.
        program: ``coremltools.converters.mil.Program``, optimized.
        target: member of ``coremltools.target``.

    Returns:
        How many were replaced.
    """
    main = program.functions["main"]
    # A mask of 8 weights a byte, and the shape beside it; since iOS18 a tensor of bits, which has the shape.
    bits = ct.converters.mil.mil.types.np_uint1_dtype if target >= ct.target.iOS18 else None
    found = list(_weights(main, quantized=bits is not None))
    with main:
        for operation in found:
            with _scopes(ct, operation):
                dense = _sparse(ct.converters.mil.mil.Builder, operation, bits)
            main.replace_uses_of_var_after_op(
                anchor_op=operation,
                old_var=operation.outputs[0],
                new_var=dense,
                no_check_var_types=True,
                force_replace=True,
            )
            main.remove_ops([operation])
    return len(found)


def _sparse(builder: Any, operation: Any, bits: Any) -> Any:
    """Returns the value of the operations that expand a weight, which are put before its own."""
    values = operation.data.val if operation.op_type == _QUANTIZED else operation.outputs[0].val
    mask, place = _kept(values), {"before_op": operation, "name": f"{operation.name}_sparsified"}
    if bits is None:
        packed = np.packbits(mask, bitorder="little")
        return builder.constexpr_sparse_to_dense(
            nonzero_data=values[mask], mask=packed, shape=np.uint32(values.shape), **place
        )
    held, data = mask.astype(bits), values[mask]
    if operation.op_type == _QUANTIZED:
        held, data = builder.constexpr_sparse_blockwise_shift_scale(
            data_mask=held,
            nonzero_data=data,
            scale=operation.scale,
            offset=operation.offset,
            before_op=operation,
            name=f"{operation.name}_quantized",
        )
    return builder.constexpr_sparse_to_dense(nonzero_data=data, mask=held, **place)


def _scopes(ct: Any, operation: Any) -> Any:
    """Returns the context in which new operations come from where an operation comes from."""
    mil = ct.converters.mil.mil
    sources = ((source, data) for source, data in operation.scopes.items() if source.name.startswith("EXIR"))
    scopes = [mil.scope.ScopeInfo(source=source, data=data) for source, data in sources]
    return mil.Builder.scope(*scopes)


def scattered(data: Array, mask: Array, shape: tuple[int, ...] | None = None) -> Array | None:
    """Returns the dense array of a sparse one; None where the mask does not mark as many values as there are.

    Args:
        data: what is not zero, flat.
        mask: of the shape that comes out, or packed into bytes.
        shape: that comes out, where the mask is packed.
    """
    if shape is not None:
        count = int(np.prod(shape))
        if mask.size != -(-count // 8):
            return None
        mask = np.unpackbits(mask, count=count, bitorder="little").reshape(shape)
    if np.count_nonzero(mask) != data.size:
        return None
    dense = np.zeros(mask.shape, data.dtype)
    dense[mask != 0] = data
    return dense


def _weights(main: Any, *, quantized: bool) -> Iterator[Any]:
    """Yields the constants that layers multiply by and that are smaller in sparse form."""
    for operation in main.operations:
        if operation.op_type != "const" and not (quantized and operation.op_type == _QUANTIZED):
            continue
        (output,) = operation.outputs
        readers = output.child_ops
        if not readers or not all(one.op_type in _LAYERS and one.weight is output for one in readers):
            continue
        values = operation.data.val if operation.op_type == _QUANTIZED else output.val
        width = _width(operation, values)
        if values.size >= _SMALLEST and _kept(values).mean() * width + 1 <= (1 - _SAVING) * width:
            yield operation


def _kept(values: Array) -> Array:
    """Returns which values are stored: all but zeros, of which a negative one is not the same bit for bit."""
    return np.asarray((values != 0) | np.signbit(values) if values.dtype.kind == "f" else values != 0)


def _width(operation: Any, values: Array) -> int:
    """Returns the bits of a stored value."""
    if operation.op_type != _QUANTIZED:
        return 8 * values.itemsize
    return int(operation.data.dtype.get_bitwidth())
