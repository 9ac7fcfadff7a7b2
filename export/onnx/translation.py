# SPDX-License-Identifier: Apache-2.0
"""Translations of ATen operators to ONNX operators, where the exporter's own leaves superfluous operators.

The exporter derives shapes at run time, also where they are known; these functions write the constants. What they emit
is valid at opset 18, or at the opset asked for where that is what makes the difference (LayerNormalization, Gelu).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import onnx_ir as ir
import torch
from onnxscript import opset18, opset20

from vitedge.export.onnx.quantized_translation import quantized_translations
from vitedge.program.attention import attention_scale

LAYER_NORMALIZATION_SINCE = 17
GELU_SINCE = 20

# Typed as anything: what a translation passes on may be a value, a number or a list, and onnxscript takes all of them.
op: Any = opset18
Translation = Callable[..., Any]
Dimension = Any
"""An ``int``, or an `onnx_ir.Value` that is a vector of one element."""


def translations(opset: int) -> dict[Any, Translation]:
    """Returns the table that ``torch.onnx.export`` takes as its ``custom_translation_table``."""
    aten = torch.ops.aten
    return {
        aten._native_batch_norm_legit_no_training.default: batch_norm,
        aten._unsafe_view.default: reshape,
        aten.alias.default: identity,
        aten.clone.default: identity,
        aten.conv2d.default: conv2d,
        aten.expand.default: expand,
        aten.gelu.default: gelu if opset >= GELU_SINCE else gelu_as_primitives,
        aten.group_norm.default: group_norm,
        aten.index.Tensor: index,
        aten.layer_norm.default: layer_norm if opset >= LAYER_NORMALIZATION_SINCE else layer_norm_as_primitives,
        aten.linear.default: linear,
        aten.mean.dim: reduce_mean,
        aten.pad.default: pad,
        aten.reshape.default: reshape,
        aten.roll.default: roll,
        aten.scaled_dot_product_attention.default: attention,
        aten.select.int: select,
        aten.slice.Tensor: slice_,
        aten.softmax.int: softmax,
        aten.split_with_sizes.default: split_with_sizes,
        aten.sum.dim_IntList: reduce_sum,
        aten.sym_size.int: sym_size,
        aten.unbind.int: unbind,
        aten.view.default: reshape,
        **quantized_translations(),
    }


def identity(x: Any, **_: Any) -> Any:
    """A copy or an alias, which a pass removes."""
    return op.Identity(x)


def batch_norm(x: Any, weight: Any, bias: Any, mean: Any, variance: Any, *momentum_and_eps: float) -> Any:
    """Normalization by running statistics; the two saved statistics that ATen also returns are not read."""
    normalized = _first(op.BatchNormalization(x, weight, bias, mean, variance, epsilon=momentum_and_eps[1]))
    return normalized, op.Constant(value_float=0.0), op.Constant(value_float=0.0)


class _Window(NamedTuple):
    """How the window of a convolution moves: the last arguments of ``aten::conv2d``, with its defaults."""

    stride: Sequence[int] = (1, 1)
    padding: Sequence[int] = (0, 0)
    dilation: Sequence[int] = (1, 1)
    groups: int = 1


def conv2d(x: Any, weight: Any, bias: Any = None, *window: Any) -> Any:
    """Convolution; without a bias it gets none, and no zeros in its place."""
    moves = _Window(*window)
    attributes = {
        "strides": _pair(moves.stride),
        "pads": _pair(moves.padding) * 2,
        "dilations": _pair(moves.dilation),
        "group": moves.groups,
        "kernel_shape": list(weight.shape[2:]),
    }
    return op.Conv(x, weight, **attributes) if bias is None else op.Conv(x, weight, bias, **attributes)


def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """``x @ weight.T + bias``. The transposition of the weight is taken into the file by a pass."""
    product = op.MatMul(x, op.Transpose(weight, perm=[1, 0]))
    return product if bias is None else op.Add(product, bias)


class _AttentionOptions(NamedTuple):
    """The last arguments of ``aten::scaled_dot_product_attention``, with its defaults."""

    attn_mask: Any = None
    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False

    def supported(self) -> bool:
        """Returns whether the translation knows what is asked for."""
        boolean_mask = self.attn_mask is not None and self.attn_mask.dtype == ir.DataType.BOOL
        return not (self.is_causal or self.enable_gqa or self.dropout_p or boolean_mask)


def attention(query: Any, key: Any, value: Any, *positional: Any, **named: Any) -> Any:
    """Scaled dot-product attention, the scale on the query before the first product: what TensorRT fuses."""
    options = _AttentionOptions(*positional, **named)
    if not options.supported():
        raise NotImplementedError("causal, grouped, dropped-out or boolean-masked attention")
    rank = len(query.shape)
    factor = attention_scale(query.shape[-1], options.scale)
    transposed = op.Transpose(key, perm=[*range(rank - 2), rank - 1, rank - 2])
    scores = op.MatMul(op.Mul(query, factor), transposed)
    if options.attn_mask is not None:
        scores = op.Add(scores, options.attn_mask)
    return op.MatMul(op.Softmax(scores, axis=-1), value)


def layer_norm(x: Any, shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any) -> Any:
    """Layer normalization as one operator."""
    scale = op.Constant(value_floats=[1.0] * math.prod(shape)) if weight is None else weight
    inputs = (x, scale) if bias is None else (x, scale, bias)
    return _first(op.LayerNormalization(*inputs, axis=-len(shape), epsilon=eps))


def layer_norm_as_primitives(
    x: Any, shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Any:
    """Layer normalization where the opset has no operator for it."""
    axes = list(range(-len(shape), 0))
    centred = op.Sub(x, op.ReduceMean(x, axes))
    normalized = op.Div(centred, op.Sqrt(op.Add(op.ReduceMean(op.Mul(centred, centred), axes), eps)))
    scaled = normalized if weight is None else op.Mul(normalized, weight)
    return scaled if bias is None else op.Add(scaled, bias)


def group_norm(x: Any, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any) -> Any:
    """Group normalization as instance normalization of the groups, which every runtime has."""
    ones, zeros = op.Constant(value_floats=[1.0] * groups), op.Constant(value_floats=[0.0] * groups)
    normalized = op.InstanceNormalization(op.Reshape(x, [0, groups, -1]), ones, zeros, epsilon=eps)
    restored = op.Reshape(normalized, [0, *x.shape[1:]])
    channelwise = [x.shape[1]] + [1] * (len(x.shape) - 2)
    scaled = restored if weight is None else op.Mul(restored, op.Reshape(weight, channelwise))
    return scaled if bias is None else op.Add(scaled, op.Reshape(bias, channelwise))


def gelu(x: Any, approximate: str = "none") -> Any:
    """Returns the Gelu operator."""
    return opset20.Gelu(x, approximate=approximate)


def gelu_as_primitives(x: Any, approximate: str = "none") -> Any:
    """``x/2 (1 + erf(x/√2))``, or its tanh approximation, in the order that ONNX Runtime and TensorRT fuse."""
    if approximate == "tanh":
        cubic = op.Add(x, op.Mul(0.044715, op.Mul(x, op.Mul(x, x))))
        curve = op.Tanh(op.Mul(math.sqrt(2 / math.pi), cubic))
    else:
        curve = op.Erf(op.Div(x, math.sqrt(2)))
    return op.Mul(op.Mul(x, op.Add(curve, 1.0)), 0.5)


def reshape(x: Any, sizes: Sequence[Dimension]) -> Any:
    """Reshape to a constant shape; one dynamic edge is left to the operator to infer."""
    free = [size for size in sizes if not isinstance(size, int)]
    if len(free) == 1 and -1 not in [size for size in sizes if isinstance(size, int)]:
        return op.Reshape(x, [size if isinstance(size, int) else -1 for size in sizes])
    return op.Reshape(x, _shape(sizes))


def expand(x: Any, sizes: Sequence[Dimension], **_: Any) -> Any:
    """Broadcasts to a shape, where -1 keeps an edge."""
    added = len(sizes) - len(x.shape)
    wanted = [1 if isinstance(size, int) and size == -1 else size for size in sizes]
    if not added and all(size in (1, edge) for size, edge in zip(wanted, x.shape, strict=True)):
        return op.Identity(x)
    return op.Expand(x, _shape(wanted))


def slice_(x: Any, dim: int = 0, start: Dimension = None, end: Dimension = None, step: int = 1) -> Any:
    """A range along one axis; the whole axis is no operator at all."""
    edge = x.shape[dim]
    first = 0 if start is None else start
    last = torch.iinfo(torch.int64).max if end is None else end
    whole = isinstance(last, int) and last >= (edge if isinstance(edge, int) else torch.iinfo(torch.int64).max)
    if isinstance(first, int) and first == 0 and whole and step == 1:
        return op.Identity(x)
    return op.Slice(x, _shape([first]), _shape([last]), [dim], [step])


def select(x: Any, dim: int, index: int) -> Any:
    """Returns one entry of an axis, which is removed."""
    return op.Gather(x, op.Constant(value_int=index), axis=dim)


def unbind(x: Any, dim: int = 0) -> Any:
    """Returns every entry of an axis of known length."""
    return [select(x, dim, index) for index in range(x.shape[dim])]


def split_with_sizes(x: Any, sizes: Sequence[int], dim: int = 0) -> Any:
    """Adjacent ranges of an axis."""
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    return [op.Slice(x, [end - size], [end], [dim]) for size, end in zip(sizes, ends, strict=True)]


def roll(x: Any, shifts: Sequence[int], dims: Sequence[int] = ()) -> Any:
    """Cyclic shift of axes of known length."""
    for shift, dim in zip(shifts, dims, strict=True):
        cut = -shift % x.shape[dim]
        edge = x.shape[dim]
        shape = x.shape
        x = op.Concat(op.Slice(x, [cut], [edge], [dim]), op.Slice(x, [0], [cut], [dim]), axis=dim)
        x.shape = shape
    return x


def pad(x: Any, sizes: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """Padding by a constant; no operator where every size is zero."""
    if not any(sizes):
        return op.Identity(x)
    if mode != "constant":
        raise NotImplementedError(f"padding by {mode}")
    rank, padded = len(x.shape), len(sizes) // 2
    before, after = [0] * rank, [0] * rank
    for position in range(padded):
        before[rank - 1 - position], after[rank - 1 - position] = sizes[2 * position], sizes[2 * position + 1]
    return op.Pad(x, before + after, float(value or 0.0))


def softmax(x: Any, dim: int, dtype: int = -1) -> Any:
    """Softmax in the type of its input."""
    if dtype not in (-1, x.dtype):
        raise NotImplementedError("softmax in another type than its input's")
    return op.Softmax(x, axis=dim)


def reduce_mean(x: Any, dims: Sequence[int], keepdim: bool = False, *, dtype: int = -1) -> Any:  # noqa: FBT001, FBT002, ATen passes it by position
    """Returns the mean along constant axes."""
    if dtype not in (-1, x.dtype):
        raise NotImplementedError("a mean in another type than its input's")
    return op.ReduceMean(x, list(dims), keepdims=int(keepdim))


def reduce_sum(x: Any, dims: Sequence[int], keepdim: bool = False, *, dtype: int = -1) -> Any:  # noqa: FBT001, FBT002, ATen passes it by position
    """Returns the sum along constant axes."""
    if dtype not in (-1, x.dtype):
        raise NotImplementedError("a sum in another type than its input's")
    return op.ReduceSum(x, list(dims), keepdims=int(keepdim))


def index(x: Any, indices: Sequence[Any]) -> Any:
    """Entries of one axis by a tensor of indices."""
    axes = [axis for axis, entry in enumerate(indices) if entry is not None]
    if len(axes) != 1:
        raise NotImplementedError("indexing several axes at once")
    return op.Gather(x, indices[axes[0]], axis=axes[0])


def sym_size(x: Any, dim: int) -> Any:
    """A dynamic edge as a vector of one element, which can be part of a shape."""
    axis = dim % len(x.shape)
    return op.Shape(x, start=axis, end=axis + 1)


def _shape(sizes: Sequence[Dimension]) -> Any:
    """Returns a shape, as a constant where all its edges are fixed."""
    if all(isinstance(size, int) for size in sizes):
        return op.Constant(value_ints=list(sizes))
    parts = [op.Constant(value_ints=[size]) if isinstance(size, int) else size for size in sizes]
    return parts[0] if len(parts) == 1 else op.Concat(*parts, axis=0)


def _first(outputs: Any) -> Any:
    """Returns the main result of an operator that can also return its statistics; a pass drops those."""
    return outputs[0] if isinstance(outputs, Sequence) else outputs


def _pair(value: Sequence[int] | int) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value) * (2 // len(value))
