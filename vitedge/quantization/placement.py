# SPDX-License-Identifier: Apache-2.0
"""Which layer is quantized how: the scheme, what is known of the target, and what the user says of single layers."""

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


@dataclass(frozen=True)
class LayerPlacement:
    """How a layer is computed."""

    scheme: str
    """One of `vitedge.recipe.LAYER_SCHEMES`."""
    reason: str
    """One phrase."""


@dataclass(frozen=True)
class Scheme:
    """What a scheme rounds."""

    weight: Literal["int8", "int4"] | None
    """Kind of integers, or None for float32."""
    blocks: bool = False
    """Whether weights have a scale a block, or a scale a channel."""
    activation: str | None = None
    """``8`` or ``16`` bits, ``dynamic`` for 8 bits whose range is found at run time, or None for float32."""


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
    """The choice for every layer, by name, in order of execution.

    Args:
        structure: of the canonical program.
        recipe: its scheme is the global setting; a name goes before a pattern, a pattern before a kind.
        form: of the program.

    Raises:
        BadRecipe: an entry of ``recipe.layers`` is no layer, no pattern that fits one, and no kind.
    """
    _refuse_unknown(structure, recipe)
    return {layer.name: _given(layer, recipe) or _by_rule(structure, layer, recipe, form) for layer in structure.layers}


def is_asked_for(part: str, structure: Structure, recipe: QuantizationRecipe) -> bool:
    """Whether the user said how a layer or an attention is computed, so that nothing else may decide it."""
    if part in (attention.name for attention in structure.attentions):
        return recipe.attention == "all" or any(fnmatchcase(part, pattern) for pattern in recipe.layers)
    return _given(structure.layer(part), recipe) is not None


def _given(layer: Layer, recipe: QuantizationRecipe) -> LayerPlacement | None:
    """What the user said of a layer."""
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
    """What experience says: layers that integers make no faster, or that they cost most."""
    scheme = "int8" if recipe.scheme == "mixed" else recipe.scheme
    reason = _reason_for_float(structure, layer, scheme, form)
    if reason:
        return LayerPlacement("float", reason)
    if SCHEMES[scheme].blocks and not _takes_blocks(structure, layer, recipe):
        return LayerPlacement(
            "w8" if SCHEMES[scheme].activation is None else "int8", "its rows do not divide into blocks"
        )
    return LayerPlacement(scheme, "")


def _reason_for_float(structure: Structure, layer: Layer, scheme: str, form: QuantizedForm) -> str:
    """Returns why a layer stays in float, or the empty string."""
    if layer.kind == "depthwise" and scheme != "w8a16":
        return "depthwise: a channel's nine weights gain nothing as integers, and lose most"
    if scheme == "int8-dynamic" and layer.kind != "linear":
        return "ranges that are found at run time pay for matrices only"
    if scheme != "int8":
        return ""
    if form.large_map and layer.kind == "conv" and _positions(layer) >= form.fewest_positions:
        return form.large_map
    ends = {"first": structure.layers[0], "last": structure.layers[-1]}
    return next((reason for end, reason in form.float_ends.items() if layer is ends[end]), "")


def _positions(layer: Layer) -> int:
    """Height times width of what a convolution puts out."""
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
