# SPDX-License-Identifier: Apache-2.0
"""The parts of a model that can be made smaller: heads, hidden units, and the channels of inverted residuals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast

import torch
from timm.models.byobnet import BottleneckBlock
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn

from vitedge.models.blocks import TransformerBlock, channels_of, narrow_heads, narrow_mlp, transformer_blocks
from vitedge.models.vit import PostNormBlock


class Kind(str, Enum):
    """What the units of a part are."""

    HEADS = "heads"
    MLP = "mlp"
    EXPANSION = "expansion"
    """The channels between the first and the last convolution of an inverted residual."""


@dataclass(frozen=True)
class Part:
    """Units side by side, whose outputs one layer joins; some of them can be taken away."""

    block: str
    """Name of the module that they are in, such as ``blocks.0``."""
    kind: Kind
    units: int
    width: int
    """Channels of a unit: of a head, or 1."""
    outputs: int
    """Channels that the layer behind them computes."""
    multiple: int
    """Number of units that the target's kernels want a multiple of."""
    is_map: bool = False
    """Whether the layer behind them is a convolution of one pixel, whose channels are the second axis."""

    @property
    def name(self) -> str:
        """Name of the part, such as ``blocks.0.mlp``."""
        return f"{self.block}.{_INNER[self.kind]}"

    @property
    def consumer(self) -> str:
        """Name of the layer that joins the units: a linear layer, or a convolution of one pixel."""
        return f"{self.block}.{_CONSUMERS[self.kind]}"

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of units that may stay, ascending: at most `_SIZES`; the last is all of them."""
        step = self.multiple * max(1, round(self.units / _SIZES / self.multiple))
        return (*range(min(step, self.units), self.units, step), self.units)

    @property
    def group(self) -> tuple[Kind, int, int, int]:
        """Parts of one group have the same shape, so that the scores of their units can be compared."""
        return self.kind, self.units, self.width, self.outputs


_SIZES = 48
_INNER = {Kind.HEADS: "attn", Kind.MLP: "mlp", Kind.EXPANSION: "conv2_kxk"}
_CONSUMERS = {Kind.HEADS: "attn.proj", Kind.MLP: "mlp.fc2", Kind.EXPANSION: "conv3_1x1.conv"}


def find_parts(module: nn.Module, multiple: int) -> list[Part]:
    """Returns the parts of a module of any family, in order of execution.

    Args:
        module: built by `vitedge.models`.
        multiple: of which the numbers of hidden units and channels stay multiples, where they are that large.
    """
    found = []
    # SimMIM's: one table of biases for all blocks, with an entry for each head, so all need the same heads.
    shares_heads = getattr(module, "rel_pos_bias", None) is not None
    blocks = {block.name: block for block in transformer_blocks(module)}
    for name, inner in module.named_modules():
        if name in blocks:
            own = _of_block(blocks[name], multiple)
            found += [part for part in own if not (shares_heads and part.kind is Kind.HEADS)]
        elif isinstance(inner, BottleneckBlock):
            weight = cast("Tensor", cast("Any", inner.conv3_1x1).conv.weight)
            found.append(Part(name, Kind.EXPANSION, weight.shape[1], 1, weight.shape[0], multiple, is_map=True))
    return found


def _of_block(block: TransformerBlock, multiple: int) -> list[Part]:
    outputs = block.mlp.fc2.weight.shape[0]
    mlp = Part(block.name, Kind.MLP, block.hidden, 1, outputs, multiple, isinstance(block.mlp.fc2, nn.Conv2d))
    if not block.heads:
        return [mlp]
    joined = block.attention.proj.weight.shape[0]
    return [Part(block.name, Kind.HEADS, block.heads, block.head_width, joined, 1), mlp]


def residual(module: nn.Module, part: Part) -> tuple[str, Tensor] | None:
    """Returns what the output of a part is added to, where the two have the same layout.

    Returns:
        The name of the module whose input the sum's other operand is, and the factor ``(outputs,)`` of the part's own
        output in the sum; None where nothing is added, or where it is laid out in another way (Swin's windows).
    """
    block: Any = module.get_submodule(part.block)
    if part.kind is Kind.EXPANSION:
        norm = block.conv3_1x1.bn
        if block.shortcut is None:
            return None
        return part.block, norm.weight.detach() * (norm.running_var + norm.eps).rsqrt()
    if part.kind is Kind.HEADS and isinstance(block.attn, WindowAttention):
        return None
    number = 1 if part.kind is Kind.HEADS else 2
    scale = getattr(block, f"gamma_{number}", None)  # BEiT's
    if scale is None:
        scale = getattr(getattr(block, f"ls{number}", None), "gamma", None)
    factor = torch.ones(part.outputs) if scale is None else scale.detach()
    if isinstance(block, PostNormBlock):
        return f"{part.block}.{_INNER[part.kind]}", factor
    return f"{part.block}.norm{number}", factor


def channels(part: Part, units: Sequence[int]) -> Tensor:
    """Returns the indices of the channels of units at the input of the layer behind them."""
    return channels_of(units, part.width)


def narrow(module: nn.Module, part: Part, kept: Sequence[int]) -> None:
    """Takes away all units of a part but some, in place; the layer behind them loses the inputs that they were.

    Args:
        module: the model.
        part: as it is in the model now.
        kept: indices of the units that stay, in their new order.
    """
    owner = module.get_submodule(part.block)
    if part.kind is Kind.EXPANSION:
        _narrow_expansion(owner, kept)
    elif part.kind is Kind.HEADS:
        narrow_heads(TransformerBlock(part.block, owner), kept)
    else:
        narrow_mlp(TransformerBlock(part.block, owner), kept)


def _narrow_expansion(block: Any, kept: Sequence[int]) -> None:
    indices = torch.tensor(list(kept))
    for layer in (block.conv1_1x1, block.conv2_kxk):
        layer.conv.weight = _some(layer.conv.weight, indices)
        for name in ("weight", "bias"):
            setattr(layer.bn, name, _some(getattr(layer.bn, name), indices))
        for name in ("running_mean", "running_var"):
            layer.bn.register_buffer(name, getattr(layer.bn, name)[indices])
        layer.conv.out_channels = layer.bn.num_features = len(indices)
    block.conv2_kxk.conv.in_channels = block.conv2_kxk.conv.groups = len(indices)
    last = block.conv3_1x1.conv
    last.weight = nn.Parameter(last.weight.detach()[:, indices].clone(), requires_grad=last.weight.requires_grad)
    last.in_channels = len(indices)


def _some(parameter: nn.Parameter, indices: Tensor) -> nn.Parameter:
    return nn.Parameter(parameter.detach()[indices].clone(), requires_grad=parameter.requires_grad)
