# SPDX-License-Identifier: Apache-2.0
"""The function `vitedge.compare`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitedge.api.images import as_images
from vitedge.api.recipes import as_recipe, for_comparison
from vitedge.api.settings import facts, several, size
from vitedge.api.sources import as_source
from vitedge.errors import BadRecipe
from vitedge.latency.sampling import Rule
from vitedge.progress import Progress
from vitedge.recipe import ExportRecipe, Precision, named_setting
from vitedge.records import Preprocessing, Tolerance
from vitedge.verbs.candidates import CompareOptions
from vitedge.verbs.compare import compare as run
from vitedge.verbs.keeping import Keeping
from vitedge.verbs.records import Comparison

if TYPE_CHECKING:
    from vitedge.api.images import Images
    from vitedge.api.sources import Model


def compare(
    source: Model,
    recipe: ExportRecipe | str | os.PathLike[str] | None = None,
    *,
    precisions: str | Sequence[str] = (),
    formats: str | Sequence[str] | None = None,
    profiles: str | Sequence[str] | None = None,
    images: Images | None = None,
    image_count: int | None = None,
    normalized: bool = False,
    eval_images: Images | None = None,
    max_drop: float | None = None,
    device: str | None = None,
    threads: int | None = None,
    rule: Rule | None = None,
    image_size: int | tuple[int, int] | None = None,
    batch: int | str | None = None,
    tolerance: Tolerance | None = None,
    labels: Sequence[str] | Mapping[Any, Any] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    bundle: str | os.PathLike[str] | None = None,
    keep_all: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Exports a model in several formats and precisions, checks and times them, and recommends which to ship.

    Args:
        source: a file, ``timm:NAME`` or ``hf:NAME``; or a module in memory, a state dict, or what `load` returned.
        recipe: settings that all candidates share, as a record or a TOML file; what is said twice has to be alike.
        precisions: those to try, such as ``["fp32", "w8"]``; empty is what the profiles offer, or fp32, fp16 and int8.
        formats: ``onnx``, ``coreml``, ``tensorrt``, or several; None is the profile's, or ONNX.
        profiles: devices of ``vitedge profiles`` that files are written for.
        images: for parity and calibration, as `export` takes them; without them nothing is int8.
        image_count: how many for parity; None is 8. Calibration takes 128 unless the recipe says another number.
        normalized: whether arrays are the model's input: of its size, and normalized with its mean and std.
        eval_images: labelled images that top-1 is counted on, as `evaluate` takes them; None counts nothing.
        max_drop: percentage points of top-1 that a candidate may lose against the model, on ``eval_images``.
        device: where artifacts are checked and timed, such as ``ssh:HOST``; None is this machine.
        threads: processor threads of the measurement; None is all physical cores.
        rule: how long to warm up and to measure; None is at least 200 samples or 10 seconds.
        image_size: height and width in pixels, one number for both; None keeps the model's own.
        batch: a fixed batch size, or ``dynamic``; None is 1.
        tolerance: of parity; None is the default of each precision and the family.
        labels: names of the classes, in their order or by their number.
        preprocessing: how images are prepared: a record, or a mapping of some of its fields.
        overrides: fields of `ModelSpec` or `Preprocessing` to the values that they really have.
        bundle: the folder in which the recommended bundle is kept; None keeps none.
        keep_all: keep every bundle that is within tolerance, in a folder each below ``bundle``.
        force: replace what is there.
        progress: who is told how far it is: such as ``print``, or a ``rich.progress.Progress``.

    Returns:
        Every candidate with its size, parity, top-1 and latency, or the reason why it fails a check or cannot be made;
        which one is recommended, why, and by which command it is made, where the model and the images can be typed.

    Raises:
        UserError: the model, the images, the settings or the output cannot be used.
        MissingBackend: no candidate can be made here, or run on the device.
        CheckFailed: the outputs of the model are degenerate, so that nothing could be compared with them.
        DeviceFailed: the device is out of reach.

    Example:
        >>> short, floats = vitedge.Rule(warmup_s=0.1, samples=40, seconds=1), ["fp32", "fp16"]
        >>> found = vitedge.compare("mystery.pth", precisions=floats, eval_images="photos", rule=short, bundle="best")
        >>> [(one.name, one.outcome, one.accuracy.top1.count) for one in found.candidates]
        [('onnx fp32', 'within tolerance', 60), ('onnx fp16', 'within tolerance', 60)]
    """
    said: dict[str, Any] = {"formats": several(formats), "profiles": several(profiles), "batch": batch}
    said |= {"device": device, "image_size": size(image_size), "image_count": image_count, "tolerance": tolerance}
    said["overrides"] = facts(overrides, labels, preprocessing)
    used = _is_held(images) or not _is_held(eval_images)  # else only the labelled ones are arrays
    asked = for_comparison(as_recipe(recipe), said, images, normalized=normalized and used)
    labelled = as_images(eval_images, None, 0, normalized=normalized and _is_held(eval_images), least=1)
    chosen = [named_setting(Precision, "precision", name) for name in several(precisions) or ()]
    options = CompareOptions(asked, tuple(chosen), labelled, max_drop, threads)
    options = options if rule is None else replace(options, rule=rule)
    model, keeping = as_source(source, asked.overrides, asked.weights), _keeping(bundle, keep_all=keep_all, force=force)
    return run(model, options, keeping, progress)


def _is_held(images: Images | None) -> bool:
    """Returns whether images are in memory."""
    return images is not None and not isinstance(images, (str, os.PathLike))


def _keeping(bundle: str | os.PathLike[str] | None, *, keep_all: bool, force: bool) -> Keeping | None:
    """Returns what is kept, and where.

    Raises:
        BadRecipe: settings of what is kept, and nothing is.
    """
    if bundle is not None:
        return Keeping(Path(bundle), force, keep_all)
    if keep_all or force:
        raise BadRecipe(f"{'keep_all' if keep_all else 'force'} is about what is kept: say where with bundle.")
    return None
