# SPDX-License-Identifier: Apache-2.0
"""The verb ``export``: a checkpoint in, a verified bundle out.

`STAGES` is the whole of it, in order. A stage is a function of records that earlier stages returned, which its
parameters name by their types, and returns a record of its own; it raises where what it made is not what was asked for.
"""

from __future__ import annotations

import contextlib
import time
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vitedge import registry
from vitedge.checkpoints.assumptions import refuse_assumed
from vitedge.checkpoints.read import CheckpointSource, read
from vitedge.errors import CheckFailed, DeviceFailed, UserError
from vitedge.files.bundle import FORMAT_VERSION, REFERENCE, write_manifest, write_reference
from vitedge.files.digest import hash_file
from vitedge.files.earlier import PROGRAM
from vitedge.files.plain import to_dict
from vitedge.files.replacing import replacing
from vitedge.guide.pages import write_pages
from vitedge.images.alike import tell_alike
from vitedge.images.image_set import load
from vitedge.images.label_files import named
from vitedge.images.steps import preprocessing_steps
from vitedge.images.stream import tell_skipped
from vitedge.latency.speedup import compare_speed as measure_speed
from vitedge.latency.speedup import refuse_incomparable
from vitedge.models.reference import load_reference
from vitedge.parity.artifact import ReferenceOutputs
from vitedge.parity.metrics import default_tolerance, degeneracy
from vitedge.parity.reference import gather
from vitedge.progress import Progress, Stage, note, reporting, stage
from vitedge.quantization.file.header import SUFFIX
from vitedge.quantization.file.model import Model, read_model
from vitedge.quantization.recording import record
from vitedge.quantization.run import Quantization
from vitedge.recipe import SCHEMES, ExportRecipe, ResolvedRecipe
from vitedge.records import CheckpointIdentity, Manifest, SpeedComparison
from vitedge.registry import LOCAL
from vitedge.verbs.checks import Checked, accept, check, check_on_device, refuse_far
from vitedge.verbs.engines import Engines, build_engines
from vitedge.verbs.failed import FAILED, keeping_failed, refuse_failed_folder
from vitedge.verbs.impossible import refuse_device, refuse_missing
from vitedge.verbs.lowering import (
    Built,
    ExportOptions,
    ExportRequest,
    ExportSource,
    Lowered,
    Quantized,
    float_program,
    lower,
)
from vitedge.verbs.quantize import quantize_reference
from vitedge.verbs.records import ExportResult
from vitedge.verbs.resolve import resolve
from vitedge.verbs.targets import targets

SEALED = (REFERENCE, FAILED)
"""Files of a bundle beside its artifacts, which the manifest lists where they are."""


@dataclass(frozen=True)
class Timed:
    """How fast a quantized file is beside float ones; None where that was not measured."""

    speed: SpeedComparison | None


def read_source(request: ExportRequest) -> ExportSource:
    """Reads the checkpoint, or the program that was quantized."""
    recipe = request.recipe
    name = str(request.source)
    if name.endswith(SUFFIX):
        model = read_model(Path(name))
        program = replace(model.program, spec=named(model.program.spec, recipe.labels))
        return ExportSource(model.checkpoint, replace(model, program=program))
    checkpoint = read(request.source, weights=recipe.weights, overrides=recipe.overrides, features=recipe.features)
    refuse_assumed(checkpoint.spec, name, accepted=recipe.accept_assumptions or checkpoint.accepted)
    identity = CheckpointIdentity(checkpoint.source, checkpoint.sha256(), checkpoint.size, checkpoint.weight_set)
    return ExportSource(identity, replace(checkpoint, spec=named(checkpoint.spec, recipe.labels)))


def build_reference(request: ExportRequest, source: ExportSource) -> Built:
    """Builds the PyTorch model at the size that was asked for."""
    if isinstance(source.content, Model):
        return Built(source.content.program.spec, None)
    reference = load_reference(source.content, request.recipe.image_size)
    return Built(reference.spec, reference)


def run_reference(request: ExportRequest, source: ExportSource, built: Built) -> ReferenceOutputs:
    """Chooses the images and keeps what the reference computes for them.

    Raises:
        CheckFailed: the outputs are degenerate, so that nothing could be compared with them.
    """
    recipe = request.recipe
    tolerance = recipe.tolerance or default_tolerance(recipe.precision, built.spec.family)
    if isinstance(source.content, Model):
        images = f"those in {Path(str(request.source)).name}"
        reference_outputs = ReferenceOutputs(source.content.reference_outputs, built.spec, tolerance, images)
    elif built.reference is not None:
        chosen = load(recipe.images, built.spec, recipe.image_count, recipe.seed)
        reference_outputs = gather(built.reference, chosen, tolerance, features=built.features(recipe))
    unusable = degeneracy(reference_outputs.data.outputs)
    if unusable:
        raise CheckFailed(
            f"{request.source}: {unusable}, on {reference_outputs.image_source}: check the checkpoint with vitedge "
            "inspect, or name images that differ."
        )
    alike = tell_alike(reference_outputs.data.images)
    for text in (*reference_outputs.notes, *([alike] if alike else [])):
        note(text)
    write_reference(request.folder, reference_outputs.data)
    return reference_outputs


def quantize(request: ExportRequest, built: Built, reference_outputs: ReferenceOutputs) -> Quantized:
    """Decides what quantized programs round, where some were asked for: for each form of them by itself.

    The statistics of activations are collected once: all forms find them in the cache.

    Raises:
        CheckFailed: the budget was not met, or the simulation exceeds the tolerance by far.
    """
    recipe = request.recipe
    if built.reference is None or recipe.precision not in SCHEMES:
        return Quantized({})
    plans: dict[str, Quantization] = {}
    for target in targets(recipe):
        if target.recipe.form in plans:
            continue
        found = quantize_reference(
            built.reference,
            recipe,
            target.form,
            features=built.features(recipe),
        )
        if not plans and found.stream is not None and found.observed is not None:
            for text in (*tell_skipped(found.observed.skipped), *filter(None, [found.stream.shortage])):
                note(f"calibration: {text}")
        missed = found.mixed_precision.search.shortfall
        if missed:
            raise CheckFailed(
                f"The budget was not met: {missed}. Nothing was written; vitedge quantize writes the best there is."
            )
        with stage("checking the simulation"):
            refuse_far(request, reference_outputs, found)
        plans[target.recipe.form] = found
    return Quantized(plans)


def time_quantized(request: ExportRequest, built: Built, quantized: Quantized, lowered: Lowered) -> Timed:
    """Measures whether a quantized file for processors is faster than float ones; an answer, not a condition."""
    recipe = request.recipe
    if not quantized.plans or not request.options.compare_speed:
        return Timed(None)
    files = [one.artifact.path for one in lowered.artifacts if one.target.form.on_processors]
    try:
        program = float_program(request, built, recipe.batch)
        quantized_file = request.folder / files[0]
        return Timed(measure_speed(quantized_file, program, recipe, request.recipe.device))
    except DeviceFailed as failed:
        return Timed(SpeedComparison(f"Whether it is faster could not be measured: {failed}"))


def seal(
    request: ExportRequest,
    source: ExportSource,
    reference_outputs: ReferenceOutputs,
    quantized: Quantized,
    checked: Checked,
    timed: Timed,
) -> Manifest:
    """Writes the pages and programs that explain the bundle, and the manifest as its last file."""
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        checkpoint=source.identity,
        spec=reference_outputs.spec,
        recipe=to_dict(request.recipe),
        artifacts=checked.artifacts,
        parity=checked.parity,
        structure=checked.structure,
        latency=None,
        quantization=_quantization(source, quantized),
        speed=timed.speed,
        steps=source.content.steps,
        files={path.name: hash_file(path) for path in map(request.folder.joinpath, SEALED) if path.exists()},
        versions=registry.environment(),
        preprocessing=preprocessing_steps(reference_outputs.spec, request.recipe.input),
    )
    sealed = write_pages(request.folder, manifest)
    write_manifest(request.folder, sealed)
    return sealed


REFERENCE_STAGES: tuple[tuple[str, Callable[..., Any]], ...] = (
    ("reading the checkpoint", read_source),
    ("building the reference", build_reference),
    ("running the reference", run_reference),
)
"""Those that do not depend on formats and precision, but for the tolerance of `ReferenceOutputs`."""
STAGES: tuple[tuple[str, Callable[..., Any]], ...] = (
    *REFERENCE_STAGES,
    ("quantizing", quantize),
    ("lowering", lower),
    ("building engines", build_engines),
    ("checking parity", check),
    ("checking parity on the device", check_on_device),
    ("deciding", accept),
    ("timing", time_quantized),
    ("sealing the bundle", seal),
)


def export(  # noqa: PLR0913 - each is an option of the command
    source: CheckpointSource,
    bundle: Path,
    asked: ExportRecipe | None = None,
    *,
    force: bool = False,
    compare_speed: bool = False,
    keep_failed: bool = False,
    progress: Progress | None = None,
) -> ExportResult:
    """Writes a verified bundle of a checkpoint.

    Args:
        source: a file, a folder, ``timm:NAME`` or ``hf:NAME``, weights in memory, or a quantized program (``.pt2``).
        bundle: the folder to write; what is there stays until the new bundle is complete and verified.
        asked: what to write; the default is one fp32 ONNX file.
        force: replace a bundle that is there.
        compare_speed: time the quantized file for processors beside float ones, on the device.
        keep_failed: keep artifacts that exceed their tolerance, in ``BUNDLE.failed``.
        progress: as `vitedge.progress.reporting` takes it: who is told how far it is; None tells nobody.

    Raises:
        UserError: the checkpoint, the recipe or the output is not usable.
        MissingBackend: a package that a format needs is not installed, here or on the device.
        DeviceFailed: the device failed, or is out of reach.
        CheckFailed: an artifact exceeded its tolerance; the bundle was not written.
    """
    with reporting(progress), stage("export", whole=True) as whole:
        options = ExportOptions(force, compare_speed, keep_failed)
        return _written(source, bundle, asked or ExportRecipe(), options, whole)


def _written(
    source: CheckpointSource, bundle: Path, asked: ExportRecipe, options: ExportOptions, whole: Stage
) -> ExportResult:
    """Runs all stages into a folder beside the bundle, which takes its place in the end."""
    recipe, compare_speed = resolve(asked, str(source)), options.compare_speed
    if options.keep_failed:
        refuse_failed_folder(bundle)
    if compare_speed:
        refuse_incomparable(str(source), recipe, [target.form for target in targets(recipe)])
    refuse_missing(recipe)
    refuse_device(recipe)
    with replacing(bundle, force=options.force) as folder:
        made: dict[type, Any] = {ExportRequest: ExportRequest(source, recipe, folder, options)}
        with keeping_failed(
            folder, bundle, lambda: _run(seal, {Timed: Timed(None), **made}), asked=options.keep_failed
        ):
            seconds = run_stages(made, whole, STAGES)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return ExportResult(str(bundle), size, made[Manifest], seconds, made[Engines].pending)


def run_stages(
    made: dict[type, Any], whole: Stage, stages: Sequence[tuple[str, Callable[..., Any]]] = STAGES
) -> dict[str, float]:
    """Runs stages, in order, but for those whose records are there.

    Args:
        made: the request by its type, and records of stages that ran before, for the same checkpoint, size and images;
            gets the record of every stage.
        whole: the stage that they are the steps of.
        stages: title and function of each.

    Returns:
        The title of each stage that ran to its wall time in seconds.
    """
    request: ExportRequest = made[ExportRequest]
    idle = _idle(request.recipe, compare_speed=request.options.compare_speed)
    known = frozenset(made)
    left = [(title, run) for title, run in stages if typing.get_type_hints(run)["return"] not in known]
    whole.count(sum(run not in idle for _, run in left))
    seconds: dict[str, float] = {}
    for title, run in left:
        start = time.perf_counter()
        with _within_memory(title), nullcontext() if run in idle else stage(title):
            result = _run(run, made)
        made[type(result)] = result
        seconds[title] = time.perf_counter() - start
        whole.advance(run not in idle)
    return seconds


def _run(run: Callable[..., Any], made: Mapping[type, Any]) -> Any:
    return run(**{name: made[kind] for name, kind in parameters(run).items()})


def parameters(run: Callable[..., Any]) -> dict[str, type]:
    """Returns the records that a stage takes: name of a parameter to its type."""
    hints = typing.get_type_hints(run)
    return {name: kind for name, kind in hints.items() if name != "return"}


def _quantization(source: ExportSource, quantized: Quantized) -> Mapping[str, Mapping[str, Any]]:
    """Returns what quantization did, as plain values, by the form of the program."""
    if isinstance(source.content, Model):
        return {PROGRAM: to_dict(source.content.record)}
    return {form: to_dict(record(plan)) for form, plan in quantized.plans.items()}


@contextlib.contextmanager
def _within_memory(title: str) -> Iterator[None]:
    """Tells of memory that the system refused; PyTorch has no type of error for it."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):
            raise
        raise UserError(
            f"There is not enough memory for {title}; choose a smaller --image-size, --batch or --image-count."
        ) from error


def _idle(recipe: ResolvedRecipe, *, compare_speed: bool) -> tuple[Callable[..., Any], ...]:
    """Returns the stages that have nothing to do, and are not announced."""
    has_work: Mapping[Callable[..., Any], bool] = {
        quantize: recipe.precision in SCHEMES,
        check_on_device: recipe.device != LOCAL,
        accept: False,
        time_quantized: compare_speed,
        build_engines: any(target.engine for target in targets(recipe)),
    }
    return tuple(run for run, busy in has_work.items() if not busy)
