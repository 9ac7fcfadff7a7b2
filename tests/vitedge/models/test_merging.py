# SPDX-License-Identifier: Apache-2.0
"""Token merging against an implementation in plain Python, which merges the tokens of one image in lists."""

from __future__ import annotations

import dataclasses
import math
import pickle
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
import timm
import torch
from timm.models.pit import PoolingVisionTransformer
from torch import Tensor, nn

from tests.seeding import seeded
from tests.vitedge.models.exporting import worst_error_over_batches
from vitedge.errors import BadRecipe
from vitedge.models import pit, vit
from vitedge.models.blocks import narrow_heads, set_widths, transformer_blocks
from vitedge.models.merging import TokenMerging, set_merging
from vitedge.models.pit import features as pit_features
from vitedge.models.reference import Reference
from vitedge.records import BlockWidths, ModelSpec, Preprocessing

SPEC = ModelSpec(
    family="vit",
    variant="custom",
    naming="timm",
    image_size=(36, 28),
    in_channels=3,
    classes=5,
    widths=(32,),
    depths=(3,),
    heads=(2,),
    mlp_ratios=(2.0,),
    patch=4,
    tokens=("class",),
    norm_eps=1e-6,
    activation="gelu",
    preprocessing=Preprocessing((0.5,) * 3, (0.5,) * 3),
)
"""9 x 7 patches: an odd number, and so is the one after a merge of 10."""
PIT = dataclasses.replace(
    SPEC,
    family="pit",
    widths=(16, 32),
    depths=(2, 2),
    heads=(1, 2),
    mlp_ratios=(2.0, 2.0),
    patch=8,
    tokens=("class", "distillation"),
    options={"stride": 4},
)
MERGES = (10, 0, 26)
VARIANTS: dict[str, dict[str, Any]] = {
    "class": {},
    "distilled": {"tokens": ("class", "distillation"), "options": {"distillation_head": True}},
    "registers, layer scale, swiglu, class and mean": {
        "tokens": ("class", "register"),
        "options": {"registers": 3, "layer_scale": True, "mlp": "swiglu", "pool": "class+mean"},
    },
    "mean, norm of the pooled": {"tokens": (), "options": {"pool": "mean", "final_norm": "pooled"}},
    "half the sum of mean and max": {"options": {"pool": "avgmax", "pool_prefix": True}},
    "norms of queries and keys, and before the blocks": {"options": {"qk_norm": True, "pre_norm": True}},
}


def merging(spec: ModelSpec, merges: Sequence[int]) -> ModelSpec:
    """The spec with blocks of its own width that merge."""
    with torch.device("meta"):
        module = (pit if spec.family == "pit" else vit).build(dataclasses.replace(spec, blocks=()))
    widths = [block.widths for block in transformer_blocks(module)]
    blocks = tuple(dataclasses.replace(block, merge=merge) for block, merge in zip(widths, merges, strict=True))
    return dataclasses.replace(spec, blocks=blocks)


def built(spec: ModelSpec, merges: Sequence[int] = ()) -> nn.Module:
    builder = pit if spec.family == "pit" else vit
    return seeded(builder.build(merging(spec, merges) if merges else spec)).double()


def images(spec: ModelSpec, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, 3, *spec.image_size, generator=generator, dtype=torch.float64)


@dataclasses.dataclass
class Token:
    """A token, and the indices of the patches that it stands for; none for a token that never merges."""

    value: np.ndarray[Any, Any]
    patches: list[int]

    @property
    def size(self) -> int:
        return max(1, len(self.patches))


def run_module(module: nn.Module, values: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    return cast("np.ndarray[Any, Any]", module(torch.from_numpy(np.stack(values))[None])[0].numpy())


def attend(block: Any, tokens: list[Token]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Returns what attention adds to the tokens, and the mean of the heads' keys."""
    attention = block.attn
    rows = run_module(attention.qkv, list(run_module(block.norm1, [token.value for token in tokens])))
    dim = rows.shape[1] // 3 // attention.num_heads
    outputs, keys = [], []
    for head in range(attention.num_heads):
        query, key, value = (rows[:, (part * attention.num_heads + head) * dim :][:, :dim] for part in range(3))
        query, key = run_module(attention.q_norm, list(query)), run_module(attention.k_norm, list(key))
        weights = np.exp(query @ key.T / math.sqrt(dim)) * np.array([token.size for token in tokens])
        outputs.append(weights / weights.sum(axis=1, keepdims=True) @ value)
        keys.append(key)
    projected = run_module(attention.proj, list(np.concatenate(outputs, axis=1)))
    return run_module(block.ls1, list(projected)), np.mean(keys, axis=0)


def merged(tokens: list[Token], keys: np.ndarray[Any, Any], prefix: int, merge: int) -> list[Token]:
    """Returns the tokens after ``merge`` of them became part of others."""
    keys = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    first, second = range(prefix, len(tokens), 2), range(prefix + 1, len(tokens), 2)
    partner = {a: max(second, key=lambda b: float(keys[a] @ keys[b])) for a in first}
    going = sorted(first, key=lambda a: -float(keys[a] @ keys[partner[a]]))[:merge]
    groups = {b: [b, *(a for a in going if partner[a] == b)] for b in second}
    joined = []
    for b in second:
        members = [tokens[index] for index in groups[b]]
        total = sum(member.size for member in members)
        value = np.sum([member.value * member.size for member in members], axis=0) / total
        joined.append(Token(value, [patch for member in members for patch in member.patches]))
    return [*tokens[:prefix], *(tokens[a] for a in first if a not in going), *joined]


def through_blocks(
    blocks: Any, values: np.ndarray[Any, Any], prefix: int, merges: Sequence[int]
) -> np.ndarray[Any, Any]:
    """Returns all tokens after the blocks, each with the value of the one that it is part of."""
    tokens = [Token(value, [] if index < prefix else [index]) for index, value in enumerate(values)]
    for block, merge in zip(blocks, merges, strict=True):
        added, keys = attend(block, tokens)
        tokens = [Token(token.value + part, token.patches) for token, part in zip(tokens, added, strict=True)]
        tokens = merged(tokens, keys, prefix, merge) if merge else tokens
        hidden = run_module(block.mlp, list(run_module(block.norm2, [token.value for token in tokens])))
        scaled = run_module(block.ls2, list(hidden))
        tokens = [Token(token.value + part, token.patches) for token, part in zip(tokens, scaled, strict=True)]
    result = values.copy()
    for index, token in enumerate(tokens):
        result[token.patches or [index]] = token.value
    return result


@torch.inference_mode()
def expected(dense: Any, image: Tensor, merges: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Returns tokens or map, and logits, of one image."""
    if isinstance(dense, PoolingVisionTransformer):
        return expected_of_pit(dense, image, merges)
    tokens = dense.norm_pre(dense._pos_embed(dense.patch_embed(image[None])))
    full = through_blocks(dense.blocks, tokens[0].numpy(), dense.num_prefix_tokens, merges)
    final = dense.norm(torch.from_numpy(full)[None])
    return final, dense.forward_head(final)


def expected_of_pit(dense: Any, image: Tensor, merges: Sequence[int]) -> tuple[Tensor, Tensor]:
    final, prefix = dense.patch_embed(image[None]) + dense.pos_embed, dense.cls_token
    count, rest = prefix.shape[1], list(merges)
    for stage in dense.transformers:
        final, prefix = stage.pool(final, prefix) if stage.pool is not None else (final, prefix)
        tokens = torch.cat((prefix, final.flatten(2).transpose(1, 2)), dim=1)[0].numpy()
        schedule, rest = rest[: len(stage.blocks)], rest[len(stage.blocks) :]
        full = torch.from_numpy(through_blocks(stage.blocks, tokens, count, schedule))[None]
        prefix, final = full[:, :count], full[:, count:].transpose(1, 2).reshape(final.shape)
    return final, dense.forward_head(dense.norm(prefix))


@pytest.mark.parametrize("variant", VARIANTS)
@torch.inference_mode()
def test_every_image_of_a_batch_is_what_plain_python_computes_of_it_alone(variant: str) -> None:
    spec = dataclasses.replace(SPEC, **VARIANTS[variant])
    dense, small, batch = built(spec), built(spec, MERGES), images(spec)
    tokens, _ = vit.features(small, batch)
    logits = small(batch)
    assert float((logits - dense(batch)).abs().max() / logits.std()) > 1e-3
    for index, image in enumerate(batch):
        own_tokens, own_logits = expected(dense, image, MERGES)
        torch.testing.assert_close(tokens[index], own_tokens[0], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(logits[index], own_logits[0], rtol=1e-9, atol=1e-9)


@torch.inference_mode()
def test_pit_gets_its_map_again_before_each_pooling_and_in_the_end() -> None:
    merges = (15, 10, 6, 2)
    dense, small, batch = built(PIT), built(PIT, merges), images(PIT)
    final, pooled = pit_features(small, batch)
    for index, image in enumerate(batch):
        own_map, own_logits = expected(dense, image, merges)
        torch.testing.assert_close(final[index], own_map[0], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(small(batch)[index], own_logits[0], rtol=1e-9, atol=1e-9)
    assert pooled.shape == (2, 32)


@pytest.mark.parametrize("spec", [SPEC, PIT], ids=["vit", "pit"])
@torch.inference_mode()
def test_merging_none_is_the_module_without_merging_and_weights_keep_their_names(spec: ModelSpec) -> None:
    merges = (6, 3, 4) if spec is SPEC else (6, 3, 4, 2)
    dense, batch = built(spec), images(spec)
    small = built(spec, merges)
    assert list(small.state_dict()) == list(dense.state_dict())
    copied = pickle.loads(pickle.dumps(small))
    assert torch.equal(copied(batch), small(batch))
    set_merging(small, merging(spec, [0] * len(merges)))
    assert torch.equal(small(batch), dense(batch))
    assert repr(small) == repr(dense)
    assert torch.equal(built(spec, [0] * len(merges))(batch), dense(batch))


@torch.inference_mode()
def test_planted_duplicates_merge_first_and_of_equal_ones_those_in_front() -> None:
    part = TokenMerging(tokens=8, prefix=1, merge=2)
    keys = torch.randn(1, 1, 9, 16, generator=torch.Generator().manual_seed(0))
    keys[:, :, 8] = keys[:, :, 1] * 3  # even token 0 and odd token 3, by cosine
    keys[:, :, 2] = keys[:, :, 7] / 2  # even token 3 and odd token 0
    values = torch.arange(9.0).reshape(1, 9, 1)
    tokens, sizes, _ = part(values, None, keys)
    assert tokens.flatten().tolist() == [0, 3, 5, (2 + 7) / 2, 4, 6, (1 + 8) / 2]
    assert sizes.flatten().tolist() == [1, 1, 1, 2, 1, 1, 2]
    tokens, sizes, _ = part(values, None, torch.ones_like(keys))
    assert tokens.flatten().tolist() == [0, 5, 7, (1 + 2 + 3) / 3, 4, 6, 8]


@torch.inference_mode()
def test_blocks_are_compared_and_heads_can_be_removed_before_or_after() -> None:
    small = built(SPEC, MERGES)
    reference = Reference(small.float(), merging(SPEC, MERGES))
    outputs = reference.block_outputs(np.zeros((2, 3, *SPEC.image_size), dtype=np.uint8))
    counts = [outputs[f"blocks.{index}"].shape[1] for index in range(3)]
    assert counts == list(set_merging(small, reference.spec)) == [54, 54, 28]
    heads = tuple(dataclasses.replace(block, heads=1) for block in reference.spec.blocks)
    before = set_widths(vit.build(SPEC), dataclasses.replace(reference.spec, blocks=heads))
    for block in transformer_blocks(small):
        narrow_heads(block, [1])
    before.load_state_dict(small.state_dict())
    batch = images(SPEC).float()
    assert torch.equal(before(batch), small(batch))


def test_a_merged_model_learns() -> None:
    small = built(SPEC, MERGES).train()
    small(images(SPEC)).square().sum().backward()
    assert all(bool(parameter.grad.abs().sum() > 0) for parameter in small.parameters() if parameter.grad is not None)
    assert small.get_parameter("blocks.0.attn.qkv.weight").grad is not None


def test_onnx_runtime_merges_the_same_tokens_at_every_batch() -> None:
    spec = dataclasses.replace(SPEC, **VARIANTS["half the sum of mean and max"], depths=(2,))
    assert worst_error_over_batches(built(spec, (10, 26)).float(), spec.image_size) < 1e-5


def test_what_cannot_merge_is_refused_and_nothing_is_changed() -> None:
    small = built(SPEC, MERGES)
    before = repr(small)
    with pytest.raises(BadRecipe, match=r"blocks\.2 is to merge 27 tokens, and of the 53 that are left there .* 26"):
        set_merging(small, merging(SPEC, (10, 0, 27)))
    assert repr(small) == before
    swin = timm.create_model("test_vit", pretrained=False)
    for family, reason in {
        "swin": "windows have a fixed number",
        "mobilevit": "become a map again",
        "mobilevitv2": "become a map again",
        "beit": "biases of relative positions",
        "timm": "only its name in timm",
    }.items():
        spec = dataclasses.replace(SPEC, family=family, blocks=(BlockWidths(2, 16, 64, 1),))
        with pytest.raises(BadRecipe, match=rf"custom cannot merge tokens, because .*{reason}.*: leave out --merge\."):
            set_merging(swin, spec)
    after = dataclasses.replace(SPEC, options={"norm_first": False})
    with pytest.raises(BadRecipe, match=r"custom cannot merge tokens, because its norms follow the sums"):
        vit.build(merging(after, MERGES))
