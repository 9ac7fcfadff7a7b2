# SPDX-License-Identifier: Apache-2.0
"""The transformer blocks of a timm module: found in order of execution, measured, and made narrower.

`narrow_heads` and `narrow_mlp` take heads and hidden units away. Pruning calls them with the units that stay; a builder
calls them on the meta device, where only their number counts, so a pruned model is built as it was made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from timm.models import beit
from torch import Tensor, nn
from torch.nn import functional

from vitedge.errors import WeightsMismatch
from vitedge.models.merging import set_merging
from vitedge.records import BlockWidths, ModelSpec


@dataclass(frozen=True)
class TransformerBlock:
    """One block: attention, whose projection joins the heads, and an MLP of two layers."""

    name: str
    """Name in the module, such as ``blocks.0``."""
    module: nn.Module
    """Has the submodules ``attn`` and ``mlp``."""

    @property
    def attention(self) -> Any:
        """The module of attention."""
        return self.module.attn

    @property
    def mlp(self) -> Any:
        """The MLP, whose layers are ``fc1`` and ``fc2``, both linear or both convolutions of one pixel."""
        return self.module.mlp

    @property
    def heads(self) -> int:
        """Number of heads; 0 where they cannot be told apart, as in MobileViT v2's separable attention."""
        return int(getattr(self.attention, "num_heads", 0))

    @property
    def head_width(self) -> int:
        """Channels of a head; 0 where there are none."""
        return int(self.attention.proj.in_features // self.heads) if self.heads else 0

    @property
    def hidden(self) -> int:
        """Units of the MLP's hidden layer."""
        return int(self.mlp.fc2.weight.shape[1])

    @property
    def widths(self) -> BlockWidths:
        """Heads, their width, and hidden units."""
        return BlockWidths(self.heads, self.head_width, self.hidden)


def transformer_blocks(module: nn.Module) -> list[TransformerBlock]:
    """Returns the transformer blocks of a module of any family, in order of execution."""
    return [
        TransformerBlock(name, part)
        for name, part in module.named_modules()
        if hasattr(part, "attn") and hasattr(getattr(part, "mlp", None), "fc2")
    ]


def set_widths(module: nn.Module, spec: ModelSpec) -> nn.Module:
    """Returns a module, built as its stages say, with the widths of ``spec.blocks``; its weights are then unspecified.

    Blocks merge as many tokens as it says.

    Raises:
        WeightsMismatch: there is another number of blocks, or a block would get wider.
        BadRecipe: tokens cannot be merged as it says; see `vitedge.models.merging.set_merging`.
    """
    if not spec.blocks:
        return module
    blocks = transformer_blocks(module)
    if len(blocks) != len(spec.blocks):
        raise WeightsMismatch(f"The spec has the widths of {len(spec.blocks)} blocks, and the model {len(blocks)}.")
    for block, widths in zip(blocks, spec.blocks, strict=True):
        fits = min(1, block.heads) <= widths.heads <= block.heads and 0 < widths.mlp <= block.hidden
        if not fits or widths.head_width != block.head_width:
            raise WeightsMismatch(
                f"The spec's {block.name} has {widths.heads} heads of {widths.head_width} channels and {widths.mlp} "
                f"hidden units, and the model's {block.heads} of {block.head_width} and {block.hidden}."
            )
        narrow_heads(block, range(widths.heads))
        narrow_mlp(block, range(widths.mlp))
    set_merging(module, spec)
    return module


def narrow_heads(block: TransformerBlock, kept: Sequence[int]) -> None:
    """Takes away all heads of a block but some, in place.

    Args:
        block: its attention has one projection ``qkv`` of all heads, and biases of relative positions or none.
        kept: indices of the heads that stay, in their new order.
    """
    attention, heads, width = block.attention, block.heads, block.head_width
    if list(kept) == list(range(heads)):
        return
    channels = channels_of(kept, width)
    rows = torch.cat([channels + part * heads * width for part in range(3)])
    attention.qkv = _rows(attention.qkv, rows)
    for name in ("q_bias", "k_bias", "v_bias"):  # BEiT's
        bias = getattr(attention, name, None)
        if bias is not None:
            _replace(attention, name, bias[channels.to(bias.device)])
    attention.proj = _columns(attention.proj, channels)
    table = getattr(attention, "relative_position_bias_table", None)
    if table is not None:
        _replace(attention, "relative_position_bias_table", table[:, torch.tensor(kept, device=table.device)])
    attention.num_heads = len(kept)
    if hasattr(attention, "attn_dim"):
        attention.attn_dim = len(kept) * width
    if isinstance(attention, beit.Attention):
        attention.__class__ = NarrowAttention


def narrow_mlp(block: TransformerBlock, kept: Sequence[int]) -> None:
    """Takes away all hidden units of a block's MLP but some, in place.

    Args:
        block: the first layer of a gated MLP computes gates and values, one after the other.
        kept: indices of the units that stay, in their new order.
    """
    hidden = block.hidden
    if list(kept) == list(range(hidden)):
        return
    units = torch.tensor(list(kept))
    halves = block.mlp.fc1.weight.shape[0] // hidden
    block.mlp.fc1 = _rows(block.mlp.fc1, torch.cat([units + part * hidden for part in range(halves)]))
    block.mlp.fc2 = _columns(block.mlp.fc2, units)


def channels_of(heads: Sequence[int], width: int) -> Tensor:
    """Returns the indices of the channels of heads, each ``width`` channels wide."""
    return (torch.tensor(list(heads)).unsqueeze(1) * width + torch.arange(width)).flatten()


class NarrowAttention(beit.Attention):
    """BEiT's attention, for heads whose channels together are not those of a token."""

    def forward(self, x: Tensor, shared_rel_pos_bias: Tensor | None = None) -> Tensor:
        """Maps tokens ``(batch, tokens, width)`` to the same shape."""
        parts = (self.q_bias, self.k_bias, self.v_bias)
        bias = None if self.q_bias is None else torch.cat(cast("tuple[Tensor, ...]", parts))
        qkv = functional.linear(x, self.qkv.weight, bias)
        query, key, value = qkv.reshape(*x.shape[:2], 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        positions = None if self.relative_position_bias_table is None else self._get_rel_pos_bias()
        if shared_rel_pos_bias is not None:
            positions = shared_rel_pos_bias if positions is None else positions + shared_rel_pos_bias
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=positions)
        return cast("Tensor", self.proj(attended.transpose(1, 2).flatten(2)))


def _rows(layer: nn.Module, rows: Tensor) -> nn.Module:
    """Returns a linear layer or a convolution of one pixel with only some of its outputs."""
    bias = cast("Tensor | None", layer.bias)
    rows = rows.to(cast("Tensor", layer.weight).device)
    return _layer(layer, cast("Tensor", layer.weight)[rows], None if bias is None else bias[rows])


def _columns(layer: nn.Module, columns: Tensor) -> nn.Module:
    """Returns a linear layer or a convolution of one pixel with only some of its inputs."""
    weight = cast("Tensor", layer.weight)
    return _layer(layer, weight[:, columns.to(weight.device)], cast("Tensor | None", layer.bias))


def _layer(like: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """Returns a layer of a layer's kind with other weights, which need a gradient where the old ones did."""
    outputs, inputs = weight.shape[:2]
    with torch.device("meta"):
        layer: nn.Module
        if isinstance(like, nn.Conv2d):
            layer = nn.Conv2d(inputs, outputs, 1, bias=bias is not None)
        else:
            layer = nn.Linear(inputs, outputs, bias=bias is not None)
    layer.requires_grad_(cast("Tensor", like.weight).requires_grad)
    _replace(layer, "weight", weight)
    if bias is not None:
        _replace(layer, "bias", bias)
    return layer.train(like.training)


def _replace(module: nn.Module, name: str, value: Tensor) -> None:
    """Puts another value in the place of a parameter or buffer, of the same kind."""
    if name in dict(module.named_buffers(recurse=False)):
        module.register_buffer(name, value.detach(), persistent=name not in module._non_persistent_buffers_set)
        return
    setattr(module, name, nn.Parameter(value.detach().clone(), requires_grad=getattr(module, name).requires_grad))
