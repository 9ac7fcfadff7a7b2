# SPDX-License-Identifier: Apache-2.0
"""Token merging in the transformer blocks of ViT and PiT: similar tokens become one between attention and MLP.

The method is that of Bolya et al., "Token Merging: Your ViT But Faster" (arXiv:2210.09461), sections 3.1 to 3.3: patch
tokens are dealt out to two sets in turn, each of the first set looks for the token of the second whose key is most
similar, and the most similar pairs merge. How many merge is fixed, so every shape is. Who merges with whom is written
as one-hot matrices that multiply the tokens, with nothing that scatters or gathers, which runtimes do differently or
not at all; of equal similarities the first token merges, so that the choice does not depend on a runtime's sort.

Modules change their class, and get no parameters: names and shapes of a ``state_dict`` stay those of the same model
without merging. What merged so far travels as an argument from block to block, never as state of a module.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from timm.layers.attention import Attention
from timm.models.pit import PoolingVisionTransformer
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from vitedge.errors import BadRecipe
from vitedge.records import ModelSpec

MERGING = ("vit", "pit")
"""Families whose tokens can merge."""
_REFUSED = {
    "beit": "its scores have biases of relative positions, and a merged token has no position",
    "mobilevit": "its tokens become a map again after every few blocks",
    "mobilevitv2": "its tokens become a map again after every few blocks",
    "swin": "its windows have a fixed number of tokens",
    "timm": "only its name in timm is known, not how its blocks work",
}
"""The other families, to the reason."""
_CLASS_ONLY = "token"
"""timm's name of a pooling that reads prefix tokens alone."""


class Match(NamedTuple):
    """What merged in one block: two one-hot matrices for every image."""

    kept: Tensor
    """``(batch, stayed, even)``: 1 where a token of the first set stays as it is."""
    moved: Tensor
    """``(batch, even, odd)``: 1 where a token of the first set merges into one of the second."""


class TokenMerging(nn.Module):
    """Merges a fixed number of tokens; has no parameters."""

    indices: Tensor

    def __init__(self, tokens: int, prefix: int, merge: int) -> None:
        """``tokens`` that can merge follow ``prefix`` ones that never do; ``merge`` of them go, half at most."""
        super().__init__()
        self.tokens, self.prefix, self.merge = tokens, prefix, merge
        self.register_buffer("indices", torch.empty((tokens + 1) // 2, dtype=torch.int64), persistent=False)
        self.init_non_persistent_buffers()

    def init_non_persistent_buffers(self) -> None:
        """Fills the buffer, which no checkpoint holds."""
        if not self.indices.is_meta:
            torch.arange(len(self.indices), out=self.indices)

    def forward(self, tokens: Tensor, sizes: Tensor | None, keys: Tensor) -> tuple[Tensor, Tensor, Match]:
        """Merges tokens.

        Args:
            tokens: ``(batch, tokens, width)``.
            sizes: ``(batch, tokens, 1)``: patches that each token stands for; None where nothing merged before.
            keys: of attention, ``(batch, heads, tokens, head width)``.

        Returns:
            The tokens, prefix ones first, their sizes, and what merged.
        """
        match = self._match(keys)
        if sizes is None:
            sizes = torch.ones_like(tokens[..., :1])
        merged = self._sum(sizes, match)
        return self._sum(tokens * sizes, match) / merged, merged, match

    def restore(self, tokens: Tensor, match: Match) -> Tensor:
        """Gives every token of before the value of the token that it became part of; inverts the order, too."""
        prefix, kept, odd = tokens.tensor_split([self.prefix, self.prefix + match.kept.shape[1]], dim=1)
        even = match.kept.transpose(1, 2) @ kept + match.moved @ odd
        pairs = torch.stack((even[:, : odd.shape[1]], odd), dim=2).flatten(1, 2)
        return torch.cat((prefix, pairs, even[:, odd.shape[1] :]), dim=1)

    def _match(self, keys: Tensor) -> Match:
        metric = keys.mean(dim=1)[:, self.prefix :]
        metric = metric / metric.square().sum(dim=-1, keepdim=True).clamp_min(torch.finfo(metric.dtype).tiny).sqrt()
        scores = metric[:, ::2] @ metric[:, 1::2].transpose(1, 2)
        best, partner = scores.amax(dim=-1), scores.argmax(dim=-1)
        mine, other = best.unsqueeze(-1), best.unsqueeze(-2)
        before = self.indices < self.indices.unsqueeze(-1)
        ahead = torch.logical_or(other > mine, torch.logical_and(other == mine, before))
        stays = (ahead.to(keys.dtype).sum(dim=-1) > self.merge - 0.5).to(keys.dtype)
        # Those that stay keep their order: the place of each is its number among them. -1 stands for none.
        place = (stays.unsqueeze(-2) @ before.to(keys.dtype).transpose(0, 1) + 1) * stays.unsqueeze(-2) - 1
        kept = place == self.indices[: len(self.indices) - self.merge].to(keys.dtype).unsqueeze(-1)
        target = (partner + 1) * (1 - stays).to(partner.dtype) - 1
        moved = target.unsqueeze(-1) == self.indices[: self.tokens // 2]
        return Match(kept.to(keys.dtype), moved.to(keys.dtype))

    def _sum(self, values: Tensor, match: Match) -> Tensor:
        """Adds up what merges, along the tokens."""
        prefix, rest = values[:, : self.prefix], values[:, self.prefix :]
        even, odd = rest[:, ::2], rest[:, 1::2]
        return torch.cat((prefix, match.kept @ even, odd + match.moved.transpose(1, 2) @ even), dim=1)


class ProportionalAttention(Attention):
    """timm's attention that also returns its keys."""

    def forward(  # type: ignore[override]
        self, x: Tensor, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Maps ``(batch, tokens, width)`` to the same, and keys ``(batch, heads, tokens, head width)``."""
        qkv = self.qkv(x).reshape(*x.shape[:2], 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        query, key = self.q_norm(query), self.k_norm(key)
        dropout = self.attn_drop.p if self.training else 0.0
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask, dropout_p=dropout)
        joined = attended.transpose(1, 2).reshape(*x.shape[:2], self.attn_dim)
        return self.proj_drop(self.proj(self.norm(joined))), key


class MergingBlock(Block):
    """timm's block that merges tokens between attention and MLP."""

    merging: TokenMerging

    def forward(  # type: ignore[override]
        self, x: Tensor, attn_mask: Tensor | None = None, sizes: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Match]:
        """Returns fewer tokens, their sizes, and what merged; see `TokenMerging.forward`."""
        attended, keys = self.attn(self.norm1(x), attn_mask=attn_mask)
        x = x + self.drop_path1(self.ls1(attended))
        x, sizes, match = self.merging(x, sizes, keys)
        x = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return x, sizes, match


class MergingBlocks(nn.Sequential):
    """The blocks of a ViT, or of a stage of PiT, of which some merge tokens.

    A token that stands for several patches gets their share of attention: the logarithm of its size is added to its
    scores (section 3.3 of the paper).
    """

    restores: bool
    """Whether the result has all tokens again, for a pooling over the patches or a map."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(batch, tokens, width)`` to the tokens that are left, or to all of them."""
        tokens, matches = self.merge(x)
        return self.restore(tokens, matches) if self.restores else tokens

    def merge(self, x: Tensor) -> tuple[Tensor, list[Match]]:
        """Returns the tokens that are left, and what merged in each block that merges."""
        sizes: Tensor | None = None
        matches = []
        for block in self:
            mask = None if sizes is None else sizes.log().transpose(1, 2).unsqueeze(1)
            if isinstance(block, MergingBlock):
                x, sizes, match = block(x, attn_mask=mask, sizes=sizes)
                matches.append(match)
            else:
                x = block(x) if mask is None else block(x, attn_mask=mask)
        return x, matches

    def restore(self, tokens: Tensor, matches: Sequence[Match]) -> Tensor:
        """Gives all tokens of before the first block the value of the token that they are part of now."""
        merging = [block.merging for block in self if isinstance(block, MergingBlock)]
        for part, match in zip(reversed(merging), reversed(matches), strict=True):
            tokens = part.restore(tokens, match)
        return tokens


@dataclass(frozen=True)
class Stage:
    """Blocks that the same tokens go through."""

    name: str
    """Name in the module, such as ``blocks``."""
    blocks: nn.Sequential
    tokens: int
    """Tokens before the first block, without prefix tokens."""
    prefix: int
    """Tokens that never merge: class, distillation and registers."""
    restores: bool
    """See `MergingBlocks.restores`."""


def stages(module: nn.Module) -> list[Stage]:
    """Returns the stages of a module of timm's classes for ViT or PiT; none of any other."""
    if isinstance(module, VisionTransformer):
        pooled = module.global_pool != _CLASS_ONLY or getattr(module, "pools_patches", False)
        prefix = int(module.num_prefix_tokens)
        return [Stage("blocks", module.blocks, int(module.patch_embed.num_patches), prefix, pooled)]
    if not isinstance(module, PoolingVisionTransformer):
        return []
    height, width = module.patch_embed.grid_size
    found = []
    for index, part in enumerate(module.transformers):
        blocks = cast("nn.Sequential", part.blocks)
        found.append(Stage(f"transformers.{index}.blocks", blocks, height * width, module.num_tokens, restores=True))
        height, width = (height + 1) // 2, (width + 1) // 2  # a pooling rounds up
    return found


def set_merging(module: nn.Module, spec: ModelSpec) -> tuple[int, ...]:
    """Makes the blocks of a module merge tokens as ``spec.blocks`` says, or none, in place.

    Returns:
        Tokens after every block, prefix tokens included; empty for a family that cannot merge.

    Raises:
        BadRecipe: a family that cannot merge is to, or a block is to merge more than half of its tokens, which it
            cannot. Nothing was changed.
    """
    merges = [block.merge for block in spec.blocks] or [0] * sum(spec.depths)
    if spec.family not in MERGING:
        if any(merges):
            reason = _REFUSED[spec.family]
            raise BadRecipe(f"{spec.variant} cannot merge tokens, because {reason}: leave out --merge.")
        return ()
    found = stages(module)
    if any(merges) and not all(type(block) in (Block, MergingBlock) for stage in found for block in stage.blocks):
        raise BadRecipe(f"{spec.variant} cannot merge tokens, because its norms follow the sums: leave out --merge.")
    rest = iter(merges)
    schedules = [[next(rest) for _ in stage.blocks] for stage in found]
    counts = [tokens for stage, merge in zip(found, schedules, strict=True) for tokens in _counts(stage, merge)]
    for stage, schedule in zip(found, schedules, strict=True):
        _set_stage(stage, schedule)
    return tuple(counts)


def _counts(stage: Stage, merges: Sequence[int]) -> Iterator[int]:
    """Yields the tokens after each block of a stage."""
    tokens = stage.tokens
    for index, merge in enumerate(merges):
        if merge > tokens // 2:
            raise BadRecipe(
                f"{stage.name}.{index} is to merge {merge} tokens, and of the {tokens} that are left there it can "
                f"merge {tokens // 2}, half of them: give --merge a smaller number, or one for each block."
            )
        tokens -= merge
        yield tokens + stage.prefix


def _set_stage(stage: Stage, merges: Sequence[int]) -> None:
    tokens = stage.tokens
    # The classes differ in `forward` alone, and weights are named after modules: so no module is built anew.
    for block, merge in zip(cast("Iterable[Block]", stage.blocks), merges, strict=True):
        if hasattr(block, "merging"):
            del block.merging
            block.__class__, block.attn.__class__ = Block, Attention
        if merge:
            block.__class__, block.attn.__class__ = MergingBlock, ProportionalAttention
            with cast("Tensor", block.norm1.weight).device:
                block.merging = TokenMerging(tokens, stage.prefix, merge)
        tokens -= merge
    if any(merges) or isinstance(stage.blocks, MergingBlocks):
        stage.blocks.__class__ = MergingBlocks if any(merges) else nn.Sequential
    if isinstance(stage.blocks, MergingBlocks):
        stage.blocks.restores = stage.restores
