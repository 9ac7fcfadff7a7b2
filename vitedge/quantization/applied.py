# SPDX-License-Identifier: Apache-2.0
"""What a scheme was applied to: the share of the weights that got it, and the layers that did not, with the reason."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping

from vitedge.errors import BadRecipe
from vitedge.program.structure import Layer, Structure
from vitedge.quantization.placement import SCHEMES, LayerPlacement
from vitedge.quantization.weights.parameters import fit_block
from vitedge.recipe import QuantizationRecipe, RangeMethod
from vitedge.sentences import some

_DEFAULT_BLOCK = QuantizationRecipe().block
_SPARSE = 0.25
"""Share of zeros from which a weight was made sparse on purpose: training leaves hardly any."""


def layer_scheme(recipe: QuantizationRecipe) -> str:
    """Returns the scheme that a recipe asks for in every layer: ``mixed`` asks for int8 where the budget allows it."""
    return "int8" if recipe.scheme == "mixed" else str(recipe.scheme)


def share(structure: Structure, choices: Mapping[str, LayerPlacement], recipe: QuantizationRecipe) -> float:
    """Returns the share of the weights of all layers that got the recipe's scheme, 0 to 1, by number of elements."""
    scheme = layer_scheme(recipe)
    got = sum(_elements(structure, layer) for layer in structure.layers if choices[layer.name].scheme == scheme)
    return got / max(1, sum(_elements(structure, layer) for layer in structure.layers))


def notes(structure: Structure, choices: Mapping[str, LayerPlacement], recipe: QuantizationRecipe) -> tuple[str, ...]:
    """Returns a sentence for each reason for which layers got another scheme, or other blocks, than was asked for."""
    return (*_other_schemes(structure, choices, recipe), *_other_blocks(structure, choices, recipe))


def refuse_unapplied(
    structure: Structure,
    choices: Mapping[str, LayerPlacement],
    recipe: QuantizationRecipe,
    attentions: Collection[str] = (),
) -> None:
    """Refuses what would be without effect, or would undo another step, before anything is rounded.

    That is a scheme that no layer got, a block size that no weight has, and a rotation of sparse weights.

    Args:
        structure: of the canonical program.
        choices: layer to its scheme.
        recipe: the scheme and the block size that were asked for.
        attentions: those whose products are quantized, or may be: int8 is then not without effect.

    Raises:
        BadRecipe: says why, and what can be asked for.
    """
    if recipe.rotation:
        _refuse_lost_zeros(structure)
    scheme = layer_scheme(recipe)
    if not any(choice.scheme == scheme for choice in choices.values()) and not (scheme == "int8" and attentions):
        raise BadRecipe(
            f"{recipe.scheme} can be applied to none of the {len(choices)} layers: {_reasons(choices)}; "
            "ask for another scheme."
        )
    _refuse_without_activations(choices, recipe, attentions)
    if recipe.block == _DEFAULT_BLOCK:
        return
    blocks = {_block(structure, layer, recipe) for layer in _in_blocks(structure, choices)}
    if not blocks:
        raise BadRecipe(f"block={recipe.block} is of layers with four-bit weights, and there is none: leave it out.")
    if recipe.block not in blocks:
        fitting = max((block for block in blocks if block is not None), default=None)
        advice = "leave it out" if fitting is None else f"the largest that does is block={fitting}"
        raise BadRecipe(f"The rows of no layer divide into blocks of {recipe.block}: {advice}.")


def _refuse_without_activations(
    choices: Mapping[str, LayerPlacement], recipe: QuantizationRecipe, attentions: Collection[str]
) -> None:
    """Refuses settings of the integers of activations where none are rounded, or none by ranges from images."""
    bits = {SCHEMES[choice.scheme].activation for choice in choices.values()}
    scheme = layer_scheme(recipe)
    if recipe.activations is not None and not (bits & {"8", "dynamic"} or attentions):
        raise BadRecipe(
            f"activations={recipe.activations} is of eight-bit activations, and {scheme} has none: leave it out."
        )
    if recipe.ranges is not RangeMethod.AUTO and not (bits & {"8", "16"} or attentions):
        raise BadRecipe(
            f"ranges={recipe.ranges} is of activations with ranges from images, and {scheme} has none: leave it out."
        )
    for setting, given in (("rotation=on", recipe.rotation), ("attention=all", recipe.attention == "all")):
        if given and recipe.images is None:
            raise BadRecipe(f"{setting} needs images, and none are assumed: leave it out, or add --images DIR.")


def _refuse_lost_zeros(structure: Structure) -> None:
    sparse = [layer.name for layer in structure.layers if _SPARSE <= _zeros(structure, layer) < 1]
    if sparse:
        raise BadRecipe(
            f"Rotation mixes the inputs of layers and so fills the zeros of {len(sparse)} sparse weights "
            f"({some(sparse, 2)}): leave rotation out, or quantize the checkpoint from before pruning."
        )


def _zeros(structure: Structure, layer: Layer) -> float:
    """Returns the share of a layer's weights that are zero."""
    weight = structure.editor.value(layer.weight)
    return float((weight == 0).sum()) / max(1, weight.numel())


def _other_schemes(
    structure: Structure, choices: Mapping[str, LayerPlacement], recipe: QuantizationRecipe
) -> Iterator[str]:
    found: dict[tuple[str, str], list[Layer]] = defaultdict(list)
    for layer in structure.layers:
        choice = choices[layer.name]
        if choice.scheme != layer_scheme(recipe):
            found[choice.scheme, choice.reason.partition(":")[0]].append(layer)
    everything = max(1, sum(_elements(structure, layer) for layer in structure.layers))
    for (scheme, reason), layers in found.items():
        part = sum(_elements(structure, layer) for layer in layers) / everything
        reasons = {choices[layer.name].reason for layer in layers}
        said = reasons.pop() if len(reasons) == 1 else reason
        yield (
            f"{len(layers)} of {len(choices)} layers, with {part:.1%} of the weights, are {scheme} and not "
            f"{layer_scheme(recipe)} ({some(layer.name for layer in layers)}): {said}"
        )


def _other_blocks(
    structure: Structure, choices: Mapping[str, LayerPlacement], recipe: QuantizationRecipe
) -> Iterator[str]:
    found: dict[int | None, list[str]] = defaultdict(list)
    for layer in _in_blocks(structure, choices):
        found[_block(structure, layer, recipe)].append(layer.name)
    for block, names in found.items():
        if block != recipe.block:
            instead = "one scale a row" if block is None else f"blocks of {block}"
            yield (
                f"{len(names)} four-bit layers have {instead} and not blocks of {recipe.block} ({some(names)}): their "
                "rows do not divide into these"
            )


def _in_blocks(structure: Structure, choices: Mapping[str, LayerPlacement]) -> Iterator[Layer]:
    """Yields the layers whose weights have a scale a block, where their rows divide into blocks."""
    return (layer for layer in structure.layers if SCHEMES[choices[layer.name].scheme].blocks)


def _block(structure: Structure, layer: Layer, recipe: QuantizationRecipe) -> int | None:
    return fit_block(structure.editor.value(layer.weight)[0].numel(), recipe.block)


def _elements(structure: Structure, layer: Layer) -> int:
    return structure.editor.value(layer.weight).numel()


def _reasons(choices: Mapping[str, LayerPlacement]) -> str:
    found: dict[str, list[str]] = defaultdict(list)
    for name, choice in choices.items():
        found[choice.reason].append(name)
    return "; ".join(f"{some(names, 2)}: {reason}" for reason, names in found.items())
