# SPDX-License-Identifier: Apache-2.0
"""The functions `vitedge.export` and `vitedge.quantize`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitedge.api.images import as_images
from vitedge.api.recipes import as_recipe, for_export, for_quantization
from vitedge.api.settings import facts, several, size
from vitedge.api.sources import as_source
from vitedge.progress import Progress
from vitedge.quantization.records import QuantizationResult
from vitedge.recipe import ExportRecipe
from vitedge.records import Preprocessing, Tolerance
from vitedge.verbs.export import export as run_export
from vitedge.verbs.quantize import quantize as run_quantize
from vitedge.verbs.records import ExportResult

if TYPE_CHECKING:
    from vitedge.api.images import Images
    from vitedge.api.sources import Model


def export(
    source: Model,
    bundle: str | os.PathLike[str],
    recipe: ExportRecipe | str | os.PathLike[str] | None = None,
    *,
    formats: str | Sequence[str] | None = None,
    profiles: str | Sequence[str] | None = None,
    precision: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    batch: int | str | None = None,
    images: Images | None = None,
    image_count: int | None = None,
    normalized: bool = False,
    tolerance: Tolerance | None = None,
    labels: Sequence[str] | Mapping[Any, Any] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    force: bool = False,
    compare_speed: bool = False,
    keep_failed: bool = False,
    progress: Progress | None = None,
) -> ExportResult:
    """Exports a model to a bundle, and checks that the exported files compute what PyTorch computes.

    Args:
        source: a file, a folder, ``timm:NAME``, ``hf:NAME``, or a ``.pt2`` file of `quantize`; or a module in memory,
            which is not altered, a state dict, or what `load` returned.
        bundle: the folder to write; what is there stays until the new bundle is complete and checked.
        recipe: these settings and further ones, as a record or a TOML file; what is said twice has to be alike.
        formats: ``onnx``, ``coreml``, ``tensorrt``, or several; None is the profile's, or ONNX.
        profiles: devices of ``vitedge profiles`` that files are written for.
        precision: ``fp32``, ``fp16``, ``int8``, ``w8``, ``w4`` …; None is the profile's, or fp32.
        image_size: height and width in pixels, one number for both; None keeps the model's own.
        batch: a fixed batch size, or ``dynamic``; None is 1.
        images: for parity and calibration: a folder, a list or array file, or ``synthetic``; an array or tensor; or any
            iterable of pictures, arrays, tensors and paths, alone, with their classes, or in batches. Arrays are uint8,
            or floating-point numbers from 0 to 1, in RGB. None is synthetic images, and nothing to calibrate on.
        image_count: how many for parity; None is 8. Calibration takes 128 unless the recipe says another number.
        normalized: whether arrays are the model's input: of its size, and normalized with its mean and std.
        tolerance: of parity; None is the default of the precision and the family.
        labels: names of the classes, in their order or by their number.
        preprocessing: how images are prepared: a record, or a mapping of some of its fields.
        overrides: fields of `ModelSpec` or `Preprocessing` to the values that they really have.
        force: replace the bundle that is there.
        compare_speed: time a file that is quantized for processors beside float ones, on this machine.
        keep_failed: keep artifacts that exceed their tolerance in ``BUNDLE.failed``.
        progress: who is told how far it is: such as ``print``, or a ``rich.progress.Progress``.

    Returns:
        The manifest of the bundle, with the parity of every artifact; `validate`, `evaluate` and `bench` take it.

    Raises:
        UserError: the model, the images, the settings or the output cannot be used.
        MissingBackend: a package that a format needs is not installed.
        CheckFailed: an artifact exceeds its tolerance; nothing was written.

    Example:
        >>> module = vitedge.load("mystery.pth").module  # or one of timm, transformers or torchvision
        >>> result = vitedge.export(module, "exported", precision="int8", images="photos")
        >>> [(report.artifact, report.runtime, report.passed) for report in result.manifest.parity]
        [('model.onnx', 'onnxruntime', True)]
    """
    files = {"formats": several(formats), "profiles": several(profiles), "precision": precision, "batch": batch}
    checks = {"image_size": size(image_size), "image_count": image_count, "tolerance": tolerance}
    said = {**files, **checks, "overrides": facts(overrides, labels, preprocessing)}
    asked = for_export(as_recipe(recipe), said, images, normalized=normalized)
    model = as_source(source, asked.overrides, asked.weights)
    how = {"force": force, "compare_speed": compare_speed, "keep_failed": keep_failed}
    return run_export(model, Path(bundle), asked, **how, progress=progress)


def quantize(
    source: Model,
    out: str | os.PathLike[str],
    recipe: ExportRecipe | str | os.PathLike[str] | None = None,
    *,
    precision: str | None = None,
    profiles: str | Sequence[str] | None = None,
    images: Images | None = None,
    image_count: int | None = None,
    normalized: bool = False,
    effort: str | None = None,
    layers: Mapping[str, str] | None = None,
    max_drop: float | None = None,
    eval_images: Images | None = None,
    min_sqnr: float | None = None,
    image_size: int | tuple[int, int] | None = None,
    batch: int | str | None = None,
    labels: Sequence[str] | Mapping[Any, Any] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> QuantizationResult:
    """Quantizes a model to one program with quantize and dequantize nodes, which `export` lowers to every format.

    Args:
        source: a file, a folder, ``timm:NAME`` or ``hf:NAME``; or a module in memory, which is not altered, a state
            dict, or what `load` returned.
        out: the ``.pt2`` file to write; what is there stays until the new one is complete.
        recipe: these settings and further ones, as a record or a TOML file; what is said twice has to be alike.
        precision: a scheme of quantization; None is the profile's, or ``int8``.
        profiles: devices of ``vitedge profiles`` that the program is for.
        images: those of calibration, as `export` takes them; none are assumed.
        image_count: how many of them; None is 128.
        normalized: whether arrays are the model's input: of its size, and normalized with its mean and std.
        effort: ``quick``, ``default`` or ``best``: how far to go; the record says what was left out.
        layers: name, pattern or kind of layers to their scheme, such as ``{"blocks.0.*": "float"}``.
        max_drop: budget: points of top-1 that may be lost on ``eval_images``.
        eval_images: labelled images, as `evaluate` takes them.
        min_sqnr: budget: centred SQNR in dB on the calibration images.
        image_size: height and width in pixels, one number for both; None keeps the model's own.
        batch: a fixed batch size, or ``dynamic``; None is 1.
        labels: names of the classes, in their order or by their number.
        preprocessing: how images are prepared: a record, or a mapping of some of its fields.
        overrides: fields of `ModelSpec` or `Preprocessing` to the values that they really have.
        force: replace the file that is there.
        progress: who is told how far it is: such as ``print``, or a ``rich.progress.Progress``.

    Returns:
        What was quantized and how, layer by layer, and how far the program is from the float model.

    Raises:
        UserError: the model, the images, the settings or the output cannot be used.
        CheckFailed: the reference's outputs are degenerate, so that nothing could be compared with them.

    Example:
        >>> result = vitedge.quantize("mystery.pth", "int8.pt2", images="photos")
        >>> result.record.images, result.record.sqnr_db > 30
        (60, True)
    """
    program = {"precision": precision, "profiles": several(profiles), "image_size": size(image_size), "batch": batch}
    said = {**program, "overrides": facts(overrides, labels, preprocessing)}
    labelled = as_images(eval_images, None, 0, normalized=False, least=1)
    budget = {"max_drop": max_drop, "eval_images": labelled, "min_sqnr": min_sqnr}
    settings = {**budget, "image_count": image_count, "effort": effort, "layers": layers}
    asked = for_quantization(as_recipe(recipe), said, settings, images, normalized=normalized)
    model = as_source(source, asked.overrides, asked.weights)
    return run_quantize(model, Path(out), asked, force=force, progress=progress)
