# SPDX-License-Identifier: Apache-2.0
"""`applied`, whose share and notes `recording` keeps: what a scheme was applied to."""

from __future__ import annotations

from functools import cache

import pytest
from timm.models.vision_transformer import VisionTransformer

from tests.export import tiny
from tests.seeding import seeded
from vitedge.errors import BadRecipe
from vitedge.export.formats import PROCESSOR, TENSORRT, QuantizedForm
from vitedge.program.canonical import canonicalize
from vitedge.program.capture import capture
from vitedge.program.structure import Structure, find_structure
from vitedge.quantization.applied import notes, refuse_unapplied, share
from vitedge.quantization.placement import choose
from vitedge.recipe import QuantizationRecipe


@cache
def vit(width: int, hidden: float = 4.0) -> Structure:
    """A ViT of one block whose rows have ``width`` and ``hidden`` times as many elements."""
    module = seeded(
        VisionTransformer(
            img_size=32, patch_size=8, embed_dim=width, depth=1, num_heads=2, num_classes=7, mlp_ratio=hidden
        )
    )
    program = capture(module, tiny.spec("vit"), ("blocks.0",), batch=2)
    return find_structure(canonicalize(program))


def applied(
    structure: Structure, form: QuantizedForm = PROCESSOR, attentions: tuple[str, ...] = (), **asked: object
) -> tuple[float, tuple[str, ...]]:
    recipe = QuantizationRecipe(**asked)  # type: ignore[arg-type]
    choices = choose(structure, recipe, form)
    refuse_unapplied(structure, choices, recipe, attentions)
    return share(structure, choices, recipe), notes(structure, choices, recipe)


def test_a_scheme_that_fits_everywhere_has_nothing_to_say() -> None:
    assert applied(vit(32), scheme="w8") == (1.0, ())


def test_layers_whose_rows_do_not_divide_are_named_with_their_share() -> None:
    found, told = applied(vit(24), scheme="w4")
    said = next(note for note in told if note.endswith("its rows do not divide into blocks"))
    assert any(note.endswith("(patch_embed.proj): only linear layers have blocks") for note in told)
    weights = {layer.name: layer.node.args[1].meta["val"].numel() for layer in vit(24).layers}  # type: ignore[union-attr]
    assert found == weights["blocks.0.mlp.fc2"] / sum(weights.values())
    assert said.startswith("4 of 6 layers, with ")
    assert "of the weights, are w8 and not w4 (blocks.0.attn.qkv, blocks.0.attn.proj, blocks.0.mlp.fc1 and 1 " in said


def test_smaller_blocks_than_asked_for_are_told() -> None:
    _, told = applied(vit(48), scheme="w4")
    assert any("blocks of 16 and not blocks of 32 (blocks.0.attn.qkv, " in note for note in told)
    _, told = applied(vit(24), scheme="w8", layers={"head": "w4"})
    assert any("one scale a row and not blocks of 32 (head)" in note for note in told)


@pytest.mark.parametrize(
    ("width", "asked", "words"),
    [
        (24, {"scheme": "w4"}, ("w4 can be applied to none of the 6 layers", "do not divide into blocks")),
        (24, {"scheme": "w4a8"}, ("w4a8 can be applied to none",)),
        (32, {"scheme": "w8", "layers": {"*": "float"}}, ("w8 can be applied to none", "asked for by *")),
        (32, {"scheme": "int8", "layers": {"linear": "w8", "conv": "w8"}}, ("asked for all linear",)),
        (32, {"scheme": "mixed", "layers": {"*": "float"}}, ("mixed can be applied to none",)),
        (48, {"scheme": "w4", "block": 128}, ("no layer divide into blocks of 128", "block=16")),
        (32, {"scheme": "int8", "block": 64}, ("block=64 is of layers with four-bit weights",)),
    ],
)
def test_what_nothing_got_is_refused(width: int, asked: dict[str, object], words: tuple[str, ...]) -> None:
    with pytest.raises(BadRecipe) as caught:
        applied(vit(width, 1.0), **asked)
    for word in words:
        assert word in str(caught.value)


def test_attentions_that_are_quantized_count_as_int8() -> None:
    found, _ = applied(vit(32), attentions=("blocks.0.attn",), scheme="int8", layers={"*": "float"})
    assert found == 0


def test_the_reasons_of_a_target_are_told_too() -> None:
    found, told = applied(vit(32), TENSORRT, scheme="int8")
    assert 0 < found <= 1
    assert bool(told) == (found < 1)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"scheme": "w8", "ranges": "mse"}, "ranges=mse is of activations .* w8 has none: leave it out"),
        ({"scheme": "w8", "activations": "int8"}, "activations=int8 is of eight-bit activations"),
        ({"scheme": "w8", "rotation": True}, "rotation=on needs images"),
        ({"scheme": "w8", "attention": "all"}, "attention=all needs images"),
    ],
)
def test_a_setting_of_activations_is_refused_where_none_are_rounded(asked: dict[str, object], words: str) -> None:
    with pytest.raises(BadRecipe, match=words):
        applied(vit(64), **asked)  # type: ignore[arg-type]
    applied(vit(64), **{**asked, "scheme": "int8", "images": "photos"})  # type: ignore[arg-type]
