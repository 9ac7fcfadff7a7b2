# SPDX-License-Identifier: Apache-2.0
"""Vision transformer checkpoints in, verified ONNX, Core ML and TensorRT out.

The verbs of the command line, as functions that return the records of `vitedge.records`. Importing this package
imports nothing heavy; a verb imports what it needs when it is called.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from vitedge.accuracy.records import Evaluation
    from vitedge.latency.sampling import Rule
    from vitedge.models.reference import Reference
    from vitedge.pruning.recipe import PruningRecipe
    from vitedge.pruning.records import PruningResult
    from vitedge.quantization.records import QuantizationResult
    from vitedge.recipe import ExportRecipe
    from vitedge.records import BenchReport, Validation
    from vitedge.verbs.bench import BenchOptions
    from vitedge.verbs.evaluate import EvaluationRequest
    from vitedge.verbs.records import ExportResult, Inspection
    from vitedge.verbs.validate import ReferenceOptions

__all__ = ["bench", "evaluate", "export", "inspect", "load", "prune", "quantize", "validate"]


def inspect(
    source: str | Path, *, weights: str | None = None, overrides: Mapping[str, Any] | None = None
) -> Inspection:
    """Finds out what a checkpoint is, what it costs to run, and that its weights fit. Nothing of it is executed.

    Args:
        source: a file, a Hugging Face folder, ``timm:NAME`` or ``hf:NAME``.
        weights: name of a set of weights, where the file holds several; None takes the averaged one.
        overrides: fields of `ModelSpec` or `Preprocessing` to the values that they really have, such as
            ``{"heads": (3,)}``.

    Returns:
        The model's spec with the origin of every fact, and its cost.

    Raises:
        UserError: the file cannot be read, is of no known family, or does not fit its family.

    Example:
        >>> found = vitedge.inspect("mystery.pth")
        >>> found.spec.variant, found.spec.image_size, found.cost.parameters
        ('custom ViT (width 64, depth 4, heads 2)/8', (32, 32), 148170)
    """
    from vitedge.verbs.inspect import inspect as run

    return run(str(source), weights=weights, overrides=overrides)


def load(
    source: str | Path,
    *,
    image_size: tuple[int, int] | None = None,
    weights: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Reference:
    """Builds the PyTorch model of a checkpoint, with the checkpoint's own weights.

    Args:
        source: a file, a Hugging Face folder, ``timm:NAME`` or ``hf:NAME``.
        image_size: height and width in pixels; None is the checkpoint's own size.
        weights: name of a set of weights, where the file holds several; None takes the averaged one.
        overrides: fields of `ModelSpec` or `Preprocessing` to the values that they really have.

    Returns:
        The ``nn.Module`` (float32, in evaluation mode) with its spec.

    Raises:
        UserError: the file cannot be read, is of no known family, or does not fit its family.
        ImpossibleSize: the family cannot be rebuilt at that image size; the message names sizes that can.

    Example:
        >>> reference = vitedge.load("mystery.pth", image_size=(48, 48))
        >>> type(reference.module).__name__, reference.spec.image_size
        ('VisionTransformer', (48, 48))
    """
    from vitedge.checkpoints.read import read
    from vitedge.models.reference import load_reference

    return load_reference(read(str(source), weights=weights, overrides=overrides), image_size)


def export(  # noqa: PLR0913 - each is an option of the command
    source: str | Path,
    bundle: str | Path,
    recipe: ExportRecipe | str | Path | None = None,
    *,
    force: bool = False,
    compare_speed: bool = False,
    keep_failed: bool = False,
    progress: Callable[[str], None] | None = None,
) -> ExportResult:
    """Exports a checkpoint to a bundle, and checks that the exported files compute what PyTorch computes.

    Args:
        source: a file, a Hugging Face folder, ``timm:NAME``, ``hf:NAME``, or a ``.pt2`` file of `quantize`.
        bundle: the folder to write; what is there stays until the new bundle is complete and checked.
        recipe: formats, precision, image size, batch, images, tolerances …, or a TOML file with them; None is one
            float32 ONNX file.
        force: replace the bundle that is there.
        compare_speed: time a file that is quantized for processors beside float ones, on this machine.
        keep_failed: keep artifacts that exceed their tolerance in ``BUNDLE.failed``.
        progress: is told in one line what begins.

    Returns:
        The manifest of the bundle, with the parity of every artifact.

    Raises:
        UserError: the checkpoint, the recipe or the output cannot be used.
        MissingBackend: a package that a format needs is not installed.
        CheckFailed: an artifact exceeds its tolerance; nothing was written.

    Example:
        >>> from vitedge.recipe import ExportRecipe
        >>> recipe = ExportRecipe(formats=("onnx",), precision="fp16", batch="dynamic")
        >>> result = vitedge.export("mystery.pth", "exported", recipe)
        >>> [(report.artifact, report.runtime, report.passed) for report in result.manifest.parity]
        [('model.onnx', 'onnxruntime', True)]
    """
    from vitedge.verbs.export import export as run

    return run(
        str(source),
        Path(bundle),
        _recipe(recipe),
        force=force,
        compare_speed=compare_speed,
        keep_failed=keep_failed,
        progress=progress,
    )


def prune(
    source: str | Path | nn.Module | Reference,
    out: str | Path,
    recipe: PruningRecipe,
    *,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
) -> PruningResult:
    """Makes a checkpoint smaller, refits what is left, and measures the distance to the dense model.

    Args:
        source: a file, a Hugging Face folder, ``timm:NAME`` or ``hf:NAME``; or a module of timm's classes, or what
            `load` returned: it is not altered, and refused where vitedge does not read its architecture.
        out: the ``.safetensors`` file to write: plain weights with their spec, which every other verb and `load` read;
            what is there stays until the new one is complete.
        recipe: what to remove, how to choose it, and the images for both.
        force: replace the file that is there.
        progress: is told in one line what begins.

    Returns:
        What was removed, what is left of the multiply-accumulates, and the distance to the dense model.

    Raises:
        UserError: the checkpoint, the images, the recipe or the output cannot be used.
        CheckFailed: the dense model's outputs are degenerate.

    Example:
        >>> from vitedge.pruning.recipe import PruningRecipe
        >>> result = vitedge.prune("mystery.pth", "small.safetensors", PruningRecipe(mlp=0.85, images="photos"))
        >>> result.record.distance.sqnr_db > 30, vitedge.load("small.safetensors").spec.blocks[0].heads
        (True, 2)
    """
    from vitedge.verbs.prune import prune as run

    named = str(source) if isinstance(source, (str, Path)) else source
    return run(named, Path(out), recipe, force=force, progress=progress)


def quantize(
    source: str | Path,
    out: str | Path,
    recipe: ExportRecipe | str | Path,
    *,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
) -> QuantizationResult:
    """Quantizes a checkpoint to one program with quantize and dequantize nodes, which `export` lowers to every format.

    Args:
        source: a file, a Hugging Face folder, ``timm:NAME`` or ``hf:NAME``.
        out: the ``.pt2`` file to write; what is there stays until the new one is complete.
        recipe: its precision is a scheme of quantization, its ``quantization`` says how and with which images; or a
            TOML file with these entries.
        force: replace the file that is there.
        progress: is told in one line what begins.

    Returns:
        What was quantized and how, layer by layer, and how far the program is from the float model.

    Raises:
        UserError: the checkpoint, the images, the recipe or the output cannot be used.

    Example:
        >>> from vitedge.recipe import ExportRecipe, QuantizationRecipe
        >>> recipe = ExportRecipe(precision="int8", quantization=QuantizationRecipe("int8", images="photos"))
        >>> result = vitedge.quantize("mystery.pth", "int8.pt2", recipe)
        >>> result.record.images, result.record.sqnr_db > 30
        (60, True)
    """
    from vitedge.verbs.quantize import quantize as run

    return run(str(source), Path(out), _recipe(recipe), force=force, progress=progress)


def validate(
    subject: str | Path,
    *,
    against: str | Path | ReferenceOptions | None = None,
    layers: bool = False,
    compute: str = "declared",
    overflow: bool = False,
    device: str = "local",
) -> Validation:
    """Checks a bundle again, or compares an artifact with a checkpoint.

    A bundle is compared with its own reference outputs, without the checkpoint and without PyTorch.

    Args:
        subject: a bundle, an ``.onnx`` file or an ``.mlpackage``; an artifact outside of a bundle needs ``against``.
        against: a checkpoint to compare with, or `ReferenceOptions` that also name the images, the tolerances, the set
            of weights and facts given by hand.
        layers: compare layer by layer with the checkpoint.
        compute: ``declared``, or ``fp32`` for a Core ML package without the rounding of half precision.
        overflow: check how near the values of a Core ML package come to what float16 can hold.
        device: where artifacts run besides, such as ``ssh:HOST``.

    Returns:
        A report for every artifact and runtime; ``passed`` sums them up.

    Raises:
        BundleDamaged: a file of the bundle is not the one that its manifest describes.
        UnreadableArtifact: the subject is neither a bundle nor an artifact.
        BadRecipe: an artifact, or ``layers``, without a checkpoint to compare with.

    Example:
        >>> vitedge.validate("bundle").passed
        True
        >>> found = vitedge.validate("bundle/model.onnx", against="mystery.pth", layers=True)
        >>> [layer.output for layer in found.parity[0].layers if layer.relative_error > 1e-3]
        []
    """
    from vitedge.errors import BadRecipe
    from vitedge.verbs.validate import ReferenceOptions, ValidationOptions
    from vitedge.verbs.validate import validate as run

    if layers and against is None:
        raise BadRecipe("Layers are compared with those of a checkpoint: say which one with against.")
    if isinstance(against, (str, Path)):
        against = ReferenceOptions(str(against))
    reference = replace(against, layers=layers or against.layers) if against else None
    return run(Path(subject), reference, ValidationOptions(compute, overflow, device))


def bench(
    subjects: str | Path | Sequence[str | Path],
    options: BenchOptions | None = None,
    *,
    device: str | Sequence[str] | None = None,
    threads: int | None = None,
    rule: Rule | None = None,
    progress: Callable[[str], None] | None = None,
) -> BenchReport:
    """Measures latency: all subjects in turn, each in a process of its own, and each against the first.

    Args:
        subjects: one or several bundles, artifacts and checkpoints; checkpoints run in PyTorch here, and as an fp32
            ONNX file on other devices. The latency of a bundle that is measured alone and here is written into its
            manifest. A ``.json`` file of an earlier run is shown beside them.
        options: image size of checkpoints, the runtime, the file that keeps the run, and the three below.
        device: ``local``, ``ssh:HOST`` or ``adb``, or several; elsewhere the outputs of bundles are checked first.
        threads: processor threads; None is all physical cores, the same for every runtime.
        rule: how long to warm up and to measure; None is at least 200 samples or 10 seconds.
        progress: is told in one line what begins.

    Returns:
        Quantiles in milliseconds and all samples of every subject, and its ratio to the first with a 95 % interval.

    Raises:
        UserError: a subject is not there or cannot be read.
        MissingBackend: nothing of a bundle runs on the device.
        CheckFailed: a runtime did not take the provider that was asked for.
        DeviceFailed: a process died, hung or failed, or the device cannot be reached.

    Example:
        >>> from vitedge.latency.sampling import Rule
        >>> report = vitedge.bench("bundle", threads=1, rule=Rule(warmup_s=0.2, samples=40))
        >>> [(row.subject, row.runtime, row.samples) for row in report.reports]
        [('bundle/model.onnx', 'onnxruntime', 40)]
    """
    from vitedge.verbs.bench import BenchOptions
    from vitedge.verbs.bench import bench as run

    options = options or BenchOptions()
    named = (device,) if isinstance(device, str) else tuple(device or options.devices)
    options = replace(options, devices=named, threads=threads or options.threads, rule=rule or options.rule)
    return run(_named(subjects), options, progress)


def evaluate(
    subjects: str | Path | Sequence[str | Path],
    images: str | Path | EvaluationRequest,
    *,
    against: str | Path | None = None,
    image_count: int | None = None,
    max_drop: float | None = None,
    progress: Callable[[str], None] | None = None,
) -> Evaluation:
    """Counts how many labelled images are classified correctly, by all subjects on the same images.

    Args:
        subjects: one or several checkpoints, ``.onnx`` files, ``.mlpackage`` folders, ``.pt2`` files and bundles.
        images: class folders, a ``.csv`` of path and label, or an ``.npz`` of images and labels; or an
            `EvaluationRequest` that also says what is to be known about checkpoints: the set of weights, overrides, the
            image size.
        against: the checkpoint that agreement is with.
        image_count: how many images, drawn evenly from the classes; None takes all.
        max_drop: percentage points of top-1 that may be lost against ``against``, or else against the first subject.
        progress: is told in one line what begins, and how far it is.

    Returns:
        Top-1, top-5 and agreement of every subject with 95 % intervals, and each compared with the first.

    Raises:
        BadRecipe: no subject, subjects of different classes, or options that do not fit them.
        BadImages: there are no labelled images, their labels do not fit, or more than 5 % of the images are corrupt.
        UserError: a subject cannot be read.
        MissingBackend: the runtime of a subject is not installed.

    Example:
        >>> found = vitedge.evaluate("bundle/model.onnx", "photos", against="mystery.pth", max_drop=1.0)
        >>> [(row.subject, row.top1.count, row.top1.total) for row in found.subjects]
        [('mystery.pth (reference)', 60, 60), ('model.onnx', 60, 60)]
        >>> found.passed
        True
    """
    from vitedge.verbs.evaluate import EvaluationRequest
    from vitedge.verbs.evaluate import evaluate as run

    request = images if isinstance(images, EvaluationRequest) else EvaluationRequest(str(images))
    request = replace(
        request,
        against=request.against if against is None else str(against),
        image_count=request.image_count if image_count is None else image_count,
        max_drop=request.max_drop if max_drop is None else max_drop,
    )
    return run(_named(subjects), request, progress)


def _named(subjects: str | Path | Sequence[str | Path]) -> list[str]:
    return [str(subject) for subject in ([subjects] if isinstance(subjects, (str, Path)) else subjects)]


def _recipe(recipe: ExportRecipe | str | Path | None) -> Any:
    """The recipe itself, read where it is a file."""
    if not isinstance(recipe, (str, Path)):
        return recipe
    from vitedge.files.plain import from_dict
    from vitedge.recipe import ExportRecipe, read_entries

    return from_dict(ExportRecipe, read_entries(Path(recipe)))


class _ExportPackage(ModuleType):
    """The package `vitedge.export`, which can be called as the verb of the same name."""

    def __call__(self, *arguments: Any, **named: Any) -> ExportResult:
        return _export(*arguments, **named)


class _Package(ModuleType):
    """This package. Importing anything below `vitedge.export` binds that package here, over the verb.

    The other packages are called by nouns (`vitedge.quantization`) and leave the verbs alone; the folder ``export/``
    has its name from outside, and so it is the one that is made callable.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name == "export" and isinstance(value, ModuleType):
            value.__class__ = _ExportPackage
        super().__setattr__(name, value)


_export = export
sys.modules[__name__].__class__ = _Package
