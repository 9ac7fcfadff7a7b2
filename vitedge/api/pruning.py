# SPDX-License-Identifier: Apache-2.0
"""The function `vitedge.prune`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitedge.api.images import as_images
from vitedge.api.settings import combined, facts, size
from vitedge.api.sources import as_source
from vitedge.progress import Progress
from vitedge.pruning.recipe import PruningRecipe
from vitedge.pruning.records import PruningResult
from vitedge.recipe import CALIBRATION_COUNT
from vitedge.records import Preprocessing
from vitedge.verbs.prune import MEASURED
from vitedge.verbs.prune import prune as run

if TYPE_CHECKING:
    from vitedge.api.images import Images
    from vitedge.api.sources import Model


def prune(
    source: Model,
    out: str | os.PathLike[str],
    recipe: PruningRecipe | None = None,
    *,
    heads: float | None = None,
    mlp: float | None = None,
    macs: float | None = None,
    sparsity: str | float | None = None,
    merge: int | tuple[int, ...] | None = None,
    images: Images | None = None,
    image_count: int | None = None,
    normalized: bool = False,
    max_drop: float | None = None,
    eval_images: Images | None = None,
    min_sqnr: float | None = None,
    image_size: int | tuple[int, int] | None = None,
    labels: Sequence[str] | Mapping[Any, Any] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> PruningResult:
    """Makes a model smaller, refits what is left, and measures the distance to the dense model.

    Args:
        source: a file, a folder, ``timm:NAME`` or ``hf:NAME``; or a module in memory, which is not altered, a state
            dict, or what `load` returned.
        out: the ``.safetensors`` file to write: plain weights with their spec, which every other verb and `load` read;
            what is there stays until the new one is complete.
        recipe: these settings and further ones; what is said twice has to be alike.
        heads: fraction of the heads that is kept.
        mlp: fraction of the hidden units that is kept.
        macs: fraction of the multiply-accumulates; widths are chosen.
        sparsity: ``2:4``, or the fraction of the weights that becomes zero.
        merge: tokens that each block merges, or one number a block.
        images: those to rank and refit on, as `export` takes them; none are assumed.
        image_count: how many of them; 64 more are held out to measure the distance.
        normalized: whether arrays are the model's input: of its size, and normalized with its mean and std.
        max_drop: budget: points of top-1 that may be lost on ``eval_images``.
        eval_images: labelled images, as `evaluate` takes them.
        min_sqnr: budget: centred SQNR in dB against the dense model.
        image_size: height and width in pixels, one number for both; None keeps the model's own.
        labels: names of the classes, in their order or by their number.
        preprocessing: how images are prepared: a record, or a mapping of some of its fields.
        overrides: fields of `ModelSpec` or `Preprocessing` to the values that they really have.
        force: replace the file that is there.
        progress: who is told how far it is: such as ``print``, or a ``rich.progress.Progress``.

    Returns:
        What was removed, what is left of the multiply-accumulates, and the distance to the dense model.

    Raises:
        UserError: the model, the images, the settings or the output cannot be used.
        CheckFailed: the dense model's outputs are degenerate.

    Example:
        >>> result = vitedge.prune("mystery.pth", "small.safetensors", mlp=0.85, images="photos")
        >>> result.record.distance.sqnr_db > 30, vitedge.load("small.safetensors").spec.blocks[0].heads
        (True, 2)
    """
    parts = {"heads": heads, "mlp": mlp, "macs": macs, "sparsity": sparsity, "merge": merge}
    labelled = as_images(eval_images, None, 0, normalized=False, least=1)
    budget = {"max_drop": max_drop, "eval_images": labelled, "min_sqnr": min_sqnr}
    count = image_count or (CALIBRATION_COUNT if recipe is None else recipe.image_count)
    named = as_images(images, count + MEASURED, recipe.seed if recipe else 0, normalized=normalized)
    size_and_images = {"image_size": size(image_size), "images": named, "image_count": image_count}
    stated = facts(overrides, labels, preprocessing)
    asked = combined(PruningRecipe, recipe, {**parts, **budget, **size_and_images, "overrides": stated})
    model = as_source(source, asked.overrides, asked.weights)
    return run(model, Path(out), asked, force=force, progress=progress)
