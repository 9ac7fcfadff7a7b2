# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache

import pytest

from tests.export import tiny
from vitedge.errors import BadRecipe
from vitedge.export.formats import CORE_ML, PROCESSOR, TENSORRT, QuantizedForm
from vitedge.program.canonical import canonicalize
from vitedge.program.structure import Structure, find_structure
from vitedge.quantization.placement import SCHEMES, LayerPlacement, choose
from vitedge.recipe import LayerScheme, QuantizationRecipe

FORMS = {"onnxruntime": PROCESSOR, "coreml": CORE_ML, "tensorrt": TENSORRT}


@cache
def structure(name: str) -> Structure:
    return find_structure(canonicalize(copy.deepcopy(tiny.program(name, "dynamic")[1])))


def chosen(name: str, scheme: str = "int8", target: str = "onnxruntime", **layers: str) -> dict[str, LayerPlacement]:
    named = {key.replace("__", "."): value for key, value in layers.items()}
    return choose(structure(name), QuantizationRecipe(scheme, layers=named), FORMS[target])


def override(layers: dict[str, str], name: str = "vit") -> dict[str, str]:
    recipe = QuantizationRecipe("int8", layers=layers)
    return {layer: choice.scheme for layer, choice in choose(structure(name), recipe, PROCESSOR).items()}


def test_a_table_says_of_every_scheme_of_a_layer_what_it_rounds() -> None:
    assert set(SCHEMES) == set(LayerScheme)
    assert SCHEMES["w4a8"].blocks
    assert (SCHEMES["float"].weight, SCHEMES["float"].activation) == (None, None)


@pytest.mark.parametrize("scheme", ["int8", "int8-dynamic", "w8", "w8a16"])
def test_every_layer_follows_the_scheme_unless_there_is_a_reason(scheme: str) -> None:
    for choice in chosen("vit", scheme).values():
        assert choice.scheme == scheme or (choice.scheme == "float" and choice.reason)
    assert list(chosen("vit", scheme)) == [layer.name for layer in structure("vit").layers]


def test_a_depthwise_convolution_stays_in_float_with_its_reason() -> None:
    choices = chosen("mobilevit")
    depthwise = [layer.name for layer in structure("mobilevit").layers if layer.kind == "depthwise"]
    assert len(depthwise) == 2
    for name in depthwise:
        assert choices[name].scheme == "float"
        assert choices[name].reason.startswith("depthwise")
    others = [choice.scheme for name, choice in choices.items() if name not in depthwise]
    assert set(others) == {"int8"}
    assert {choice.scheme for choice in chosen("mobilevit", "w8a16").values()} == {"w8a16"}


@pytest.mark.parametrize(("scheme", "instead"), [("w4", "w8"), ("w4a8", "int8")])
def test_what_does_not_divide_into_blocks_has_a_scale_a_channel(scheme: str, instead: str) -> None:
    choices, found = chosen("mobilevit", scheme), structure("mobilevit")
    for layer in found.layers:
        if layer.kind == "depthwise":
            continue
        fits = layer.kind == "linear" and found.editor.value(layer.weight).shape[1] % 16 == 0
        assert choices[layer.name].scheme == (scheme if fits else instead), layer.name
        assert bool(choices[layer.name].reason) is not fits


def test_tensorrt_leaves_the_first_layer_and_the_head() -> None:
    choices = chosen("vit", target="tensorrt")
    assert (choices["patch_embed.proj"].scheme, choices["head"].scheme) == ("float", "float")
    assert "TensorRT" in choices["head"].reason
    assert {choice.scheme for choice in choices.values()} == {"float", "int8"}


@pytest.mark.parametrize(
    ("form", "reason", "positions"),
    [(PROCESSOR, "gains nothing", 256), (TENSORRT, "loses most", 256), (CORE_ML, "loses most", 256)],
)
def test_convolutions_of_large_maps_stay_in_float(form: QuantizedForm, reason: str, positions: int) -> None:
    def floats(form: QuantizedForm, scheme: str = "int8") -> set[str]:
        choices = choose(structure("mobilevit"), QuantizationRecipe(scheme), form)
        kinds = {layer.name: layer.kind for layer in structure("mobilevit").layers}
        return {name for name, choice in choices.items() if reason in choice.reason and kinds[name] == "conv"}

    assert not floats(form)
    narrow = replace(form, fewest_positions=positions)
    large = floats(narrow)
    layers = {layer.name: layer for layer in structure("mobilevit").layers if layer.kind == "conv"}
    assert large == {name for name, layer in layers.items() if layer.node.meta["val"].shape[2] >= 16}
    assert set() < large < set(layers)
    assert not floats(narrow, "w8")


def test_a_name_goes_before_a_pattern_and_a_pattern_before_a_kind() -> None:
    layers = {"linear": "w8", "blocks.0.*": "int8-dynamic", "blocks.0.mlp.fc1": "float"}
    found = override(layers)
    assert override(dict(reversed(layers.items()))) == found  # whatever the order
    assert found["blocks.0.mlp.fc1"] == "float"
    assert found["blocks.0.mlp.fc2"] == "int8-dynamic"
    assert found["blocks.1.mlp.fc2"] == "w8"
    assert found["patch_embed.proj"] == "int8"
    reasons = choose(structure("vit"), QuantizationRecipe("int8", layers=layers), PROCESSOR)
    assert [reasons[name].reason for name in ("blocks.0.mlp.fc1", "blocks.0.mlp.fc2", "blocks.1.mlp.fc2")] == [
        "asked for by name",
        "asked for by blocks.0.*",
        "asked for all linear",
    ]


def test_what_is_asked_for_goes_before_every_rule() -> None:
    assert override({"depthwise": "int8"}, "mobilevit")["stages.0.0.conv2_kxk.conv"] == "int8"


@pytest.mark.parametrize(
    ("entry", "hint"),
    [
        ("blocks.0.attn.qk", "did you mean blocks.0.attn.qkv?"),
        ("blocks.7.*", "did you mean"),
        ("Linear", "did you mean linear?"),
        ("zzz", "the first is patch_embed.proj"),
    ],
)
def test_an_unknown_layer_is_refused_with_the_nearest(entry: str, hint: str) -> None:
    with pytest.raises(BadRecipe) as caught:
        override({entry: "float"})
    assert repr(entry) in str(caught.value)
    assert hint in str(caught.value)


def test_an_attention_may_be_named() -> None:
    assert set(override({"blocks.0.attn": "float"}).values()) == {"int8"}  # its layers are named apart
