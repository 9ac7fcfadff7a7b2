# SPDX-License-Identifier: Apache-2.0
"""The metadata that a Core ML package carries; nothing in it differs between two runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vitedge.files.plain import to_dict
from vitedge.images.preprocess import geometry
from vitedge.mlprogram.description import metadata
from vitedge.mlprogram.modules import BLOCKS, MODULES
from vitedge.mlprogram.program import MLProgram
from vitedge.recipe import ResolvedRecipe
from vitedge.records import Preprocessing
from vitedge.registry import UNINSTALLED, versions

if TYPE_CHECKING:
    # It imports PyTorch, and what is written here is looked for where that is not installed.
    from vitedge.program.program import Program

LABEL = "classLabel"
LABEL_PROBABILITIES = "classLabel_probs"
PREFIX = "vitedge."
"""Prefix of the metadata keys under which a package carries vitedge's records, as JSON."""
SPARSE = "constexpr_sparse_to_dense"
"""Operation that expands a weight that is stored sparse."""
_SPARSE = f"{PREFIX}sparse"
"""Key of the number of weights that vitedge stored so."""
_COREMLTOOLS = "com.github.apple.coremltools."
_ONE_NUMBER_SINCE = 26
"""From this release on, iOS and macOS have the same number; before it, macOS was three behind."""
_OUTPUTS = {
    "logits": "Class scores before the softmax, {shape}.",
    "tokens": "Last features after the final norm, {shape}.",
    "pooled": "Pooled features that the head would read, {shape}.",
    LABEL: "Name of the likeliest class.",
    LABEL_PROBABILITIES: "Probability of every class by its name.",
}


def oldest_systems(target: str) -> dict[str, str]:
    """Returns the oldest systems that read a deployment target such as ``iOS17``; empty for one that is not named so.

    Each iOS has a macOS of the same year, and since 26 of the same number (``coremltools.target``).
    """
    number = target.removeprefix("iOS")
    if number == target or not number.isdecimal():
        return {}
    return {"iOS": number, "macOS": number if int(number) >= _ONE_NUMBER_SINCE else str(int(number) - 3)}


def describe(
    model: Any,
    program: Program,
    recipe: ResolvedRecipe,
    modules: Sequence[str],
    blocks: Mapping[str, str],
    sparse: int = 0,
) -> None:
    """Fills the metadata of a ``CoreML.Specification.Model``, without coremltools' date.

    Args:
        model: the message.
        program: what was lowered.
        recipe: how.
        modules: paths of the modules that values are called after.
        blocks: as in `vitedge.records.Artifact`.
        sparse: how many weights are stored sparse.
    """
    installed = versions(("vitedge", "coremltools", "torch"))
    version = installed.get("vitedge", UNINSTALLED)
    spec = program.spec
    fields = model.description.metadata
    height, width = spec.image_size
    fields.shortDescription = f"{spec.variant}, {width} x {height} pixels, {recipe.precision}"
    fields.author = f"exported by vitedge {version}"
    fields.license = "that of the checkpoint"
    fields.versionString = version
    entries = {
        f"{_COREMLTOOLS}version": installed["coremltools"],
        f"{_COREMLTOOLS}source": f"torch=={installed['torch']}",
        f"{PREFIX}version": version,
        f"{PREFIX}recipe": _json(recipe),
        f"{PREFIX}spec": _json(spec),
        f"{PREFIX}preprocessing": _json(spec.preprocessing),
        f"{PREFIX}labels": _json(spec.labels),
        MODULES: _json(tuple(modules)),
        BLOCKS: _json(dict(blocks)),
    }
    if sparse:
        entries[_SPARSE] = _json(sparse)
    fields.userDefined.clear()
    fields.userDefined.update(entries)
    for feature in model.description.input:
        feature.shortDescription = _input_sentence(program, recipe)
    shapes = {output.name: " x ".join(str(edge) for edge in output.shape) for output in program.outputs}
    for feature in model.description.output:
        feature.shortDescription = _OUTPUTS[feature.name].format(shape=shapes.get(feature.name, ""))


def stores_sparse(program: MLProgram) -> bool:
    """Returns whether vitedge stored weights of a package sparse, as they are, and nobody any others since."""
    found = sum(operation.kind == SPARSE for operation in program.operations)
    return found > 0 and metadata(program.package, _SPARSE) == found


def _input_sentence(program: Program, recipe: ResolvedRecipe) -> str:
    height, width = program.spec.image_size
    size = f"{width} x {height} pixels"
    if recipe.input == "uint8":
        kind = {1: "Grey", 3: "RGB"}.get(program.spec.in_channels, f"{program.spec.in_channels}-channel")
        return f"{kind} image of {size}, 0 to 255; the normalization is inside. {geometry(program.spec)}"
    preprocessing: Preprocessing = program.spec.preprocessing
    planes = _planes(program.spec.in_channels, preprocessing)
    return (
        f"Image of {size}, {planes} scaled to 0 to 1, less the mean "
        f"{preprocessing.mean}, divided by {preprocessing.std}. {geometry(program.spec)}"
    )


def _planes(channels: int, preprocessing: Preprocessing) -> str:
    if channels == 1:
        return "one grey plane"
    return f"{preprocessing.channel_order.upper()} planes" if channels == 3 else f"{channels} planes"


def _json(record: Any) -> str:
    return json.dumps(to_dict(record), sort_keys=True, ensure_ascii=False)
