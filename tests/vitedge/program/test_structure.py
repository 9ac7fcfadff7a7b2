# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from tests.export import tiny
from tests.seeding import seeded
from tests.vitedge.quantization import small_models as small
from vitedge.program.canonical import canonicalize
from vitedge.program.capture import capture
from vitedge.program.editor import aten
from vitedge.program.execution import Execution
from vitedge.program.structure import Norm, Structure, find_structure

NORMED = {
    "vit": ("blocks.0.norm1", "blocks.0.norm2", "blocks.1.norm1", "blocks.1.norm2", "norm"),
    "swin": (
        "layers.0.blocks.0.norm1", "layers.0.blocks.0.norm2", "layers.0.blocks.1.norm1", "layers.0.blocks.1.norm2",
        "layers.1.downsample.norm", "layers.1.blocks.0.norm1", "layers.1.blocks.0.norm2",
    ),
    "mobilevit": ("stages.1.1.transformer.0.norm1", "stages.1.1.transformer.0.norm2", "stages.1.1.norm"),
    "mobilevitv2": (),
}  # fmt: skip


@cache
def structure(name: str) -> Structure:
    return find_structure(canonicalize(copy.deepcopy(tiny.program(name, "dynamic")[1])))


def of(kind: type[nn.Module], **options: bool) -> Structure:
    return find_structure(canonicalize(small.captured(kind, **options)))


@pytest.mark.parametrize("name", tiny.NAMES)
def test_every_linear_and_convolution_is_a_layer_by_the_name_of_its_module(name: str) -> None:
    module = tiny.model(name)
    kinds = {}
    for path, part in module.named_modules():
        if isinstance(part, nn.Linear):
            kinds[f"{path}.weight"] = "linear"
        elif isinstance(part, nn.Conv2d):
            kinds[f"{path}.weight"] = "depthwise" if 1 < part.groups == part.in_channels else "conv"
    found = {layer.weight: layer.kind for layer in structure(name).layers}
    assert found == kinds
    for layer in structure(name).layers:
        assert structure(name).layer(layer.name) is layer
        axis = layer.channel_axis
        assert layer.input.meta["val"].shape[axis] == layer.groups * structure(name).editor.value(layer.weight).shape[1]


@pytest.mark.parametrize("name", NORMED)
def test_the_norms_that_only_layers_read(name: str) -> None:
    assert tuple(norm.name for norm in structure(name).norms) == NORMED[name]
    assert not any(norm.padded for norm in structure(name).norms)


def scale(found: Structure, norm: Norm) -> None:
    """Doubles a third of the channels of a norm and halves the columns that read them, which changes nothing."""
    factor = torch.ones(found.editor.value(norm.weight).shape)
    factor[::3] = 2.0
    found.editor.set(norm.weight, found.editor.value(norm.weight) * factor)
    found.editor.set(norm.bias, found.editor.value(norm.bias) * factor)
    for layer, columns in zip(norm.readers, norm.columns, strict=True):
        weight = found.editor.value(layer.weight)
        shape = [1, -1, *[1] * (weight.dim() - 2)]
        found.editor.set(layer.weight, weight / factor[columns].reshape(shape))


@pytest.mark.parametrize("name", ["deit", "pit", "swin", "mobilevit"])
def test_the_columns_that_read_a_channel_of_a_norm(name: str) -> None:
    found = find_structure(copy.deepcopy(structure(name).program))
    images = tiny.images(2)
    expected = Execution(found.program.exported)(images)[0]
    for norm in found.norms:
        scale(found, norm)
    result = Execution(found.program.exported)(images)[0]
    assert float((result - expected).abs().max() / expected.abs().max()) < 1e-5


def test_a_norm_that_something_else_reads_is_left_out() -> None:
    (norm,) = of(small.Normed).norms  # neither the one that is added nor the one that is an output
    assert norm.name == "norm"
    assert [layer.name for layer in norm.readers] == ["left", "right"]


def test_a_swin_that_pads_its_windows_says_so() -> None:
    module = seeded(
        SwinTransformer(img_size=(32, 40), patch_size=4, window_size=4, embed_dim=24, depths=(2,), num_heads=(2,),
                        num_classes=3, always_partition=True)
    )  # fmt: skip
    spec = copy.copy(tiny.spec("swin"))
    object.__setattr__(spec, "image_size", (32, 40))
    found = find_structure(canonicalize(capture(module, spec, ("layers.0.blocks.0",))))
    padded = {norm.name: norm.padded for norm in found.norms}
    assert padded["layers.0.blocks.0.norm1"]
    assert padded["layers.0.blocks.1.norm1"]
    assert not padded["layers.0.blocks.0.norm2"]


@pytest.mark.parametrize(
    ("name", "attention", "heads", "dim", "tokens"),
    [
        ("vit", "blocks.0.attn", 3, 16, 17),
        ("pit", "transformers.1.blocks.0.attn", 2, 16, 17),
        ("swin", "layers.0.blocks.1.attn", 2, 12, 16),
        ("beit", "blocks.1.attn", 3, 16, 17),
        ("mobilevit", "stages.1.1.transformer.0.attn", 4, 8, 16),
    ],
)
def test_rows_of_queries_keys_and_values(name: str, attention: str, heads: int, dim: int, tokens: int) -> None:
    (found,) = (one for one in structure(name).attentions if one.name == attention)
    assert (found.heads, found.dim, found.tokens) == (heads, dim, tokens)
    assert found.masked is (name in ("swin", "beit"))
    rows = torch.arange(3 * heads * dim).reshape(3, heads, dim)
    for operand, expected in zip((found.query, found.key, found.value), rows, strict=True):
        assert operand is not None
        assert operand.layer.weight == f"{attention}.qkv.weight"
        assert torch.equal(operand.rows, expected)
    assert found.output is not None
    assert found.columns is not None
    assert found.output.name == f"{attention}.proj"
    assert torch.equal(found.columns, torch.arange(heads * dim))


def test_mobilevit_v2_has_no_attention_of_products() -> None:
    assert structure("mobilevitv2").attentions == ()


@pytest.mark.parametrize("options", [{"fused": True}, {"fused": False}, {"fused": True, "masked": True}])
def test_an_attention_is_the_same_whether_written_out_or_not(options: dict[str, bool]) -> None:
    (found,) = of(small.Heads, **options).attentions
    assert (found.heads, found.dim, found.tokens, found.masked) == (2, 16, 32, "masked" in options)
    operands: tuple[Any, ...] = (found.query, found.key, found.value)
    assert [operand.rows[:, 0].tolist() for operand in operands] == [[0, 16], [32, 48], [64, 80]]
    assert found.output is not None
    assert found.output.name == "proj"


def test_queries_keys_and_values_of_layers_of_their_own() -> None:
    (found,) = of(small.Separate).attentions
    operands: tuple[Any, ...] = (found.query, found.key, found.value)
    assert [operand.layer.name for operand in operands] == ["q", "k", "v"]
    assert all(torch.equal(operand.rows, torch.arange(32).reshape(2, 16)) for operand in operands)
    (normalized,) = of(small.Separate, normalized=True).attentions
    assert normalized.query is None
    assert normalized.key is not None


def test_a_softmax_that_is_no_attention_is_none() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(32, 5)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.head(image.mean((1, 2))).softmax(-1)  # type: ignore[no-any-return]

    found = find_structure(canonicalize(capture(seeded(Gated()), tiny.spec("vit"), ("head",))))
    assert aten.softmax.int in [node.target for node in found.editor.calls()]
    assert found.attentions == ()
