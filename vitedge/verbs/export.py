# SPDX-License-Identifier: Apache-2.0
"""The verb ``export``: a checkpoint in, a verified bundle out.

`STAGES` is the whole of it, in order. A stage is a function of records that earlier stages returned, which its
parameters name by their types, and returns a record of its own; it raises where what it made is not what was asked for.
"""

from __future__ import annotations

import contextlib
import time
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vitedge import registry
from vitedge.checkpoints.assumptions import refuse_assumed
from vitedge.checkpoints.read import read
from vitedge.devices.checking import check_there, refusal_there
from vitedge.devices.session import connect
from vitedge.errors import CheckFailed, DeviceFailed, MissingBackend, UserError
from vitedge.export.formats import LOWERINGS
from vitedge.files.bundle import FORMAT_VERSION, REFERENCE, write_manifest, write_reference
from vitedge.files.digest import hash_file
from vitedge.files.earlier import PROGRAM
from vitedge.files.plain import to_dict
from vitedge.files.replacing import replacing
from vitedge.images.alike import tell_alike
from vitedge.images.image_set import load
from vitedge.images.stream import tell_skipped
from vitedge.latency.speedup import compare_speed as measure_speed
from vitedge.latency.speedup import refuse_incomparable
from vitedge.models.reference import load_reference
from vitedge.parity.artifact import ReferenceOutputs
from vitedge.parity.check import CheckOptions, Original, check_artifact
from vitedge.parity.metrics import default_tolerance, degeneracy, exceeded
from vitedge.parity.reference import gather
from vitedge.parity.simulation import simulate
from vitedge.quantization.file.header import SUFFIX
from vitedge.quantization.file.model import Model, read_model
from vitedge.quantization.recording import record
from vitedge.quantization.run import Quantization
from vitedge.recipe import SCHEMES, ExportRecipe, ResolvedRecipe
from vitedge.records import Artifact, CheckpointIdentity, Manifest, ParityReport, SpeedComparison, StructureReport
from vitedge.registry import LOCAL
from vitedge.verbs.engines import Engines, build_engines
from vitedge.verbs.lowering import Built, ExportRequest, ExportSource, Lowered, Quantized, float_program, lower
from vitedge.verbs.quantize import quantize_reference
from vitedge.verbs.records import ExportResult
from vitedge.verbs.remedies import remedies
from vitedge.verbs.resolve import resolve
from vitedge.verbs.targets import targets


@dataclass(frozen=True)
class Checked:
    """All artifacts, and the reports on them."""

    artifacts: tuple[Artifact, ...]
    parity: tuple[ParityReport, ...]
    structure: tuple[StructureReport, ...]


@dataclass(frozen=True)
class Timed:
    """How fast a quantized file is beside float ones; None where that was not measured."""

    speed: SpeedComparison | None


def read_source(request: ExportRequest) -> ExportSource:
    """Reads the checkpoint, or the program that was quantized."""
    recipe = request.recipe
    if request.source.endswith(SUFFIX):
        model = read_model(Path(request.source))
        return ExportSource(model.checkpoint, model)
    checkpoint = read(request.source, weights=recipe.weights, overrides=recipe.overrides, features=recipe.features)
    refuse_assumed(checkpoint.spec, request.source, accepted=recipe.accept_assumptions or checkpoint.accepted)
    identity = CheckpointIdentity(checkpoint.source, checkpoint.sha256(), checkpoint.size, checkpoint.weight_set)
    return ExportSource(identity, checkpoint)


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
        images = f"those in {Path(request.source).name}"
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
    for note in (*reference_outputs.notes, *([alike] if alike else [])):
        request.progress(f"note: {note}")
    write_reference(request.folder, reference_outputs.data)
    return reference_outputs


def quantize(request: ExportRequest, built: Built) -> Quantized:
    """Decides what quantized programs round, where some were asked for: for each form of them by itself.

    The statistics of activations are collected once: all forms find them in the cache.
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
            progress=request.progress,
        )
        if not plans and found.stream is not None and found.observed is not None:
            for note in (*tell_skipped(found.observed.skipped), *filter(None, [found.stream.shortage])):
                request.progress(f"note: calibration: {note}")
        missed = found.mixed_precision.search.shortfall
        if missed:
            raise CheckFailed(
                f"The budget was not met: {missed}. Nothing was written; vitedge quantize writes the best there is."
            )
        plans[target.recipe.form] = found
    return Quantized(plans)


def check(
    request: ExportRequest,
    built: Built,
    reference_outputs: ReferenceOutputs,
    quantized: Quantized,
    lowered: Lowered,
    engines: Engines,
) -> Checked:
    """Compares every artifact with the reference, where it can be run.

    Raises:
        CheckFailed: names the artifact, the tolerance that it exceeds, and the first layer that departs.
    """
    recipe = request.recipe
    parity: list[ParityReport] = []
    structure: list[StructureReport] = []
    is_quantized = recipe.precision in SCHEMES
    for one in lowered.artifacts:
        simulated = simulate(one.program, reference_outputs.data.images) if is_quantized else None
        options = CheckOptions(simulated=simulated, form=one.target.form, half=one.target.recipe.is_half)
        original = Original(built.reference, one.program)
        found = check_artifact(request.folder / one.artifact.path, one.artifact, reference_outputs, original, options)
        parity.extend(found.parity)
        structure.extend(found.structure)
    for artifact in engines.artifacts:
        path, original = request.folder / artifact.path, Original(built.reference)
        found = check_artifact(path, artifact, reference_outputs, original, CheckOptions())
        parity.extend(found.parity)
        structure.extend(found.structure)
    reports: list[ParityReport | StructureReport] = [*parity, *structure]
    for report in reports:
        if not report.passed:
            said = f"{report.artifact} does not compute what the checkpoint computes: {report.reason}."
            raise CheckFailed(f"{said}{_remedy(request.source, recipe, report, quantized)}")
    artifacts = (*(one.artifact for one in lowered.artifacts), *engines.artifacts)
    return Checked(artifacts, tuple(parity), tuple(structure))


def check_on_device(request: ExportRequest, reference_outputs: ReferenceOutputs, checked: Checked) -> Checked:
    """Compares the artifacts with the reference on the device, where they run there.

    Raises:
        MissingBackend: none runs there.
        CheckFailed: names the artifact, the device, and the tolerance that it exceeds.
    """
    if request.recipe.device == LOCAL:
        return checked
    with connect(request.recipe.device) as session:
        refusals = {artifact.path: refusal_there(session, artifact.format) for artifact in checked.artifacts}
        if all(refusals.values()):
            raise MissingBackend(" ".join(dict.fromkeys(refusals.values())))
        for path, refused in refusals.items():
            if refused:
                request.progress(f"note: {path} was not run on {request.recipe.device}: {refused}")
        parity = tuple(
            report
            for artifact in checked.artifacts
            for report in check_there(session, request.folder / artifact.path, artifact, reference_outputs)
        )
    for report in parity:
        if not report.passed:
            raise CheckFailed(f"{report.artifact} does not compute what the checkpoint computes: {report.reason}.")
    return replace(checked, parity=(*checked.parity, *parity))


def time_quantized(request: ExportRequest, built: Built, quantized: Quantized, lowered: Lowered) -> Timed:
    """Measures whether a quantized file for processors is faster than float ones; an answer, not a condition."""
    recipe = request.recipe
    if not quantized.plans or not request.compare_speed:
        return Timed(None)
    files = [one.artifact.path for one in lowered.artifacts if one.target.form.on_processors]
    try:
        program = float_program(request, built, recipe.batch)
        quantized_file = request.folder / files[0]
        return Timed(measure_speed(quantized_file, program, recipe, request.recipe.device, progress=request.progress))
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
    """Writes the manifest, the last file of the bundle."""
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
        files={REFERENCE: hash_file(request.folder / REFERENCE)},
        versions=registry.environment(),
    )
    write_manifest(request.folder, manifest)
    return manifest


STAGES: tuple[tuple[str, Callable[..., Any]], ...] = (
    ("reading the checkpoint", read_source),
    ("building the reference", build_reference),
    ("running the reference", run_reference),
    ("quantizing", quantize),
    ("lowering", lower),
    ("building engines", build_engines),
    ("checking parity", check),
    ("checking parity on the device", check_on_device),
    ("timing", time_quantized),
    ("sealing the bundle", seal),
)


def export(
    source: str,
    bundle: Path,
    asked: ExportRecipe | None = None,
    *,
    force: bool = False,
    compare_speed: bool = False,
    progress: Callable[[str], None] = lambda _text: None,
) -> ExportResult:
    """Writes a verified bundle of a checkpoint.

    Args:
        source: a file, a folder, ``timm:NAME`` or ``hf:NAME``, or a quantized program (``.pt2``).
        bundle: the folder to write; what is there stays until the new bundle is complete and verified.
        asked: what to write; the default is one fp32 ONNX file.
        force: replace a bundle that is there.
        compare_speed: time the quantized file for processors beside float ones, on the device.
        progress: called with one line a stage.

    Raises:
        UserError: the checkpoint, the recipe or the output is not usable.
        MissingBackend: a package that a format needs is not installed, here or on the device.
        DeviceFailed: the device failed, or is out of reach.
        CheckFailed: an artifact exceeded its tolerance; nothing was written.
    """
    recipe = resolve(asked or ExportRecipe(), source, progress)
    if compare_speed:
        refuse_incomparable(source, recipe, [target.form for target in targets(recipe)])
    _refuse_missing(recipe)
    _refuse_device(recipe, progress)
    idle = _idle(recipe, compare_speed=compare_speed)
    seconds: dict[str, float] = {}
    with replacing(bundle, force=force) as folder:
        made: dict[type, Any] = {ExportRequest: ExportRequest(source, recipe, folder, compare_speed, progress)}
        for title, stage in STAGES:
            if stage not in idle:
                progress(f"{title} …")
            start = time.perf_counter()
            with _within_memory(title):
                result = stage(**{name: made[kind] for name, kind in parameters(stage).items()})
            made[type(result)] = result
            seconds[title] = time.perf_counter() - start
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return ExportResult(str(bundle), size, made[Manifest], seconds, made[Engines].pending)


def parameters(stage: Callable[..., Any]) -> dict[str, type]:
    """Returns the records that a stage takes: name of a parameter to its type."""
    hints = typing.get_type_hints(stage)
    return {name: kind for name, kind in hints.items() if name != "return"}


def _remedy(source: str, recipe: ResolvedRecipe, report: ParityReport | StructureReport, quantized: Quantized) -> str:
    """Returns what can be done about outputs that exceed their tolerance; of anything else, nothing."""
    if not isinstance(report, ParityReport) or not exceeded(report.outputs, report.tolerance):
        return ""
    diagnoses = [one for plan in quantized.plans.values() for one in plan.diagnoses]
    return remedies(source, recipe, report.outputs, diagnoses)


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


def _refuse_missing(recipe: ResolvedRecipe) -> None:
    """Refuses a format whose packages are not installed, or whose settings do not exist, before any work is done."""
    for target in targets(recipe):
        registry.load(LOWERINGS, target.format).check_settings(target.recipe)


def _refuse_device(recipe: ResolvedRecipe, progress: Callable[[str], None]) -> None:
    """Refuses a device that is out of reach, or that runs nothing of what will be written, before any work is done.

    Raises:
        DeviceFailed: it is out of reach.
        MissingBackend: none of the formats runs there.
    """
    registry.check_device(recipe.device)
    if recipe.device == LOCAL:
        return
    progress(f"asking {recipe.device} what it runs …")
    with connect(recipe.device) as session:
        refusals = [refusal_there(session, target.format) for target in targets(recipe)]
    if all(refusals) and not any(target.engine for target in targets(recipe)):
        raise MissingBackend(" ".join(dict.fromkeys(refusals)))


def _idle(recipe: ResolvedRecipe, *, compare_speed: bool) -> tuple[Callable[..., Any], ...]:
    """Returns the stages that have nothing to do, and are not announced."""
    has_work: Mapping[Callable[..., Any], bool] = {
        quantize: recipe.precision in SCHEMES,
        check_on_device: recipe.device != LOCAL,
        time_quantized: compare_speed,
        build_engines: any(target.engine for target in targets(recipe)),
    }
    return tuple(stage for stage, busy in has_work.items() if not busy)
