# SPDX-License-Identifier: Apache-2.0
"""Decides the scheme of each layer: by the recipe's scheme, the target's form, and the user's settings per layer."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from vitedge.errors import BadRecipe
from vitedge.export.formats import QuantizedForm
from vitedge.program.structure import Layer, Structure
from vitedge.quantization.weights.parameters import fit_block
from vitedge.recipe import QuantizationRecipe

KINDS = ("linear", "conv", "depthwise")
"""Kinds of layers that a recipe can name."""


@dataclass(frozen=True)
class LayerPlacement:
    """The scheme of a layer and the reason for it."""

    scheme: str
    """a `vitedge.recipe.LayerScheme`."""
    reason: str
    """One phrase; empty where the layer follows the recipe's scheme."""


@dataclass(frozen=True)
class Scheme:
    """The precision of weights and activations under a scheme."""

    weight: Literal["int8", "int4"] | None
    """Integer type of weights, or None for float32."""
    blocks: bool = False
    """Whether weights have one scale a block, not one a channel."""
    activation: str | None = None
    """Bits of activations, ``8`` or ``16``; ``dynamic`` for 8 bits with a range found at run time; None for float32."""


SCHEMES: Mapping[str, Scheme] = {
    "float": Scheme(None),
    "int8": Scheme("int8", activation="8"),
    "int8-dynamic": Scheme("int8", activation="dynamic"),
    "w8": Scheme("int8"),
    "w4": Scheme("int4", blocks=True),
    "w4a8": Scheme("int4", blocks=True, activation="8"),
    "w8a16": Scheme("int8", activation="16"),
}


def choose(structure: Structure, recipe: QuantizationRecipe, form: QuantizedForm) -> dict[str, LayerPlacement]:
    """Returns layer to its scheme with the reason, in order of execution.

    Args:
        structure: of the canonical program.
        recipe: its scheme is the global setting; a name goes before a pattern, a pattern before a kind.
        form: the form of quantized program that the target takes.

    Raises:
        BadRecipe: an entry of ``recipe.layers`` is no layer, no pattern that fits one, and no kind.
    """
    _refuse_unknown(structure, recipe)
    return {layer.name: _given(layer, recipe) or _by_rule(structure, layer, recipe, form) for layer in structure.layers}


def is_asked_for(part: str, structure: Structure, recipe: QuantizationRecipe) -> bool:
    """Returns whether the user chose the precision of a layer or an attention, which no search may change then."""
    if part in (attention.name for attention in structure.attentions):
        return recipe.attention == "all" or any(fnmatchcase(part, pattern) for pattern in recipe.layers)
    return _given(structure.layer(part), recipe) is not None


def _given(layer: Layer, recipe: QuantizationRecipe) -> LayerPlacement | None:
    """Returns the scheme that the user chose for a layer; None where there is no such choice."""
    if layer.name in recipe.layers:
        return LayerPlacement(recipe.layers[layer.name], "asked for by name")
    for pattern, scheme in recipe.layers.items():
        if pattern not in KINDS and fnmatchcase(layer.name, pattern):
            return LayerPlacement(scheme, f"asked for by {pattern}")
    return (
        LayerPlacement(recipe.layers[layer.kind], f"asked for all {layer.kind}")
        if layer.kind in recipe.layers
        else None
    )


def _by_rule(structure: Structure, layer: Layer, recipe: QuantizationRecipe, form: QuantizedForm) -> LayerPlacement:
    """Returns the recipe's scheme, or float for layers that integers make no faster or that lose most by them."""
    scheme = "int8" if recipe.scheme == "mixed" else recipe.scheme
    reason = _reason_for_float(structure, layer, scheme, form)
    if reason:
        return LayerPlacement("float", reason)
    if SCHEMES[scheme].blocks and not _takes_blocks(structure, layer, recipe):
        why = "its rows do not divide into blocks" if layer.kind == "linear" else "only linear layers have blocks"
        return LayerPlacement("w8" if SCHEMES[scheme].activation is None else "int8", why)
    return LayerPlacement(scheme, "")


def _reason_for_float(structure: Structure, layer: Layer, scheme: str, form: QuantizedForm) -> str:
    """Returns why a layer stays in float, or the empty string."""
    if layer.kind == "depthwise" and scheme != "w8a16":
        return "depthwise: a channel's nine weights gain no speed as integers, and lose most accuracy"
    if scheme == "int8-dynamic" and layer.kind != "linear":
        return "dynamic quantization gains speed for linear layers only"
    if scheme != "int8":
        return ""
    if form.large_map and layer.kind == "conv" and _positions(layer) >= form.fewest_positions:
        return form.large_map
    ends = {"first": structure.layers[0], "last": structure.layers[-1]}
    return next((reason for end, reason in form.float_ends.items() if layer is ends[end]), "")


def _positions(layer: Layer) -> int:
    """Returns height times width of a convolution's output."""
    height, width = layer.node.meta["val"].shape[2:]
    return int(height) * int(width)


def _takes_blocks(structure: Structure, layer: Layer, recipe: QuantizationRecipe) -> bool:
    return layer.kind == "linear" and fit_block(structure.editor.value(layer.weight).shape[1], recipe.block) is not None


def _refuse_unknown(structure: Structure, recipe: QuantizationRecipe) -> None:
    names = [layer.name for layer in structure.layers] + [attention.name for attention in structure.attentions]
    for entry in recipe.layers:
        if entry in KINDS or any(fnmatchcase(name, entry) for name in names):
            continue
        near = difflib.get_close_matches(entry, [*names, *KINDS], n=1)
        hint = f"did you mean {near[0]}?" if near else f"the first is {names[0]}."
        raise BadRecipe(f"There is no layer {entry!r} to quantize, and none that fits it as a pattern; {hint}")
