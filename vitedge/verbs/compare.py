# SPDX-License-Identifier: Apache-2.0
"""The verb ``compare``: a checkpoint in several formats and precisions, checked, counted and timed; one is recommended.

The checkpoint is read once, the reference runs once, and calibration is done once: every candidate is an export without
the stages that all share (`vitedge.verbs.export.REFERENCE_STAGES`), and later ones find the statistics of activations
in the cache. All that are within tolerance are then measured in turn, in one run.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vitedge.accuracy.count import Count, classify
from vitedge.accuracy.records import PairedAccuracy, SubjectAccuracy
from vitedge.checkpoints.read import CheckpointSource
from vitedge.devices.checking import too_old
from vitedge.devices.fitting import fitting
from vitedge.devices.profiles import named
from vitedge.devices.session import Session, connect
from vitedge.errors import CheckFailed, DeviceFailed, MissingBackend, UserError
from vitedge.export.formats import FORMATS
from vitedge.files.bundle import write_reference
from vitedge.files.replacing import refuse_existing
from vitedge.images.class_names import Classes
from vitedge.images.labelled import LabelledSet, find_labelled
from vitedge.images.stream import tell_skipped
from vitedge.latency.interleave import measure_in_turn
from vitedge.latency.model import MeasuredModel
from vitedge.models.reference import Reference
from vitedge.parity.artifact import ReferenceOutputs
from vitedge.parity.metrics import default_tolerance
from vitedge.progress import Progress, Stage, note, reporting, say, stage
from vitedge.records import Artifact, BenchReport, Manifest
from vitedge.registry import LOCAL
from vitedge.verbs.candidates import CompareOptions, Planned, plan
from vitedge.verbs.checks import Checked
from vitedge.verbs.duration import roughly, seconds_expected
from vitedge.verbs.engines import Engines
from vitedge.verbs.export import REFERENCE_STAGES, run_stages
from vitedge.verbs.export_command import export_command
from vitedge.verbs.keeping import Keeping, keep
from vitedge.verbs.lowering import Built, ExportOptions, ExportRequest
from vitedge.verbs.measured import declared
from vitedge.verbs.recommend import recommend
from vitedge.verbs.records import FAILED, NOT_MADE, WITHIN, Candidate, Comparison
from vitedge.verbs.subjects import Subject, Weights, as_predictor, checkpoint, find, opened


@dataclass(frozen=True)
class _Shared:
    """What all candidates have in common, made once."""

    source: CheckpointSource
    folder: Path
    """Temporary; a folder a candidate."""
    options: CompareOptions
    known: Mapping[type, Any]
    """The records of `REFERENCE_STAGES`, by type."""
    image_s: float
    """Seconds that the PyTorch model took for an image."""

    @property
    def reference(self) -> Reference:
        """The PyTorch model."""
        found: Built = self.known[Built]
        if found.reference is None:
            raise ValueError("a comparison starts from a checkpoint")
        return found.reference

    @property
    def outputs(self) -> ReferenceOutputs:
        """The images, and what the PyTorch model computes for them."""
        found: ReferenceOutputs = self.known[ReferenceOutputs]
        return found

    def bundle(self, candidate: Candidate | Planned) -> Path:
        """Returns the folder of a candidate."""
        return self.folder / candidate.name.replace(" ", "-")


def compare(
    source: CheckpointSource,
    options: CompareOptions | None = None,
    keeping: Keeping | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Exports a checkpoint in several formats and precisions, checks and times them, and recommends one.

    A candidate that fails a check, or that cannot be made here, is one that says so; the others go on.

    Args:
        source: a file, a folder, ``timm:NAME`` or ``hf:NAME``; or weights in memory.
        options: the candidates, the images, the device; the default is fp32, fp16 and int8 in ONNX, on this machine.
        keeping: where the bundles are kept, and which; None keeps none.
        progress: as `vitedge.progress.reporting` takes it: who is told how far it is; None tells nobody.

    Returns:
        Every candidate with its size, parity, accuracy and latency, and which one `vitedge.verbs.recommend` chose.

    Raises:
        UserError: the checkpoint, the images, the options or the output cannot be used.
        MissingBackend: no candidate can be made here, or run on the device.
        CheckFailed: the outputs of the reference are degenerate, so that nothing could be compared with them.
        DeviceFailed: the device is out of reach. If it fails while it measures, `Comparison.failed` says so.
    """
    options = options or CompareOptions()
    if keeping is not None:
        refuse_existing(keeping.folder, force=keeping.force)
    with reporting(progress), stage("compare", whole=True) as whole:
        return _compared(source, options, keeping, whole)


def _compared(source: CheckpointSource, options: CompareOptions, keeping: Keeping | None, whole: Stage) -> Comparison:
    """Makes, counts and measures the candidates in a temporary folder, and keeps what is to be kept."""
    start = time.perf_counter()
    planned = plan(str(source), options)
    with tempfile.TemporaryDirectory(prefix="vitedge-") as folder:
        shared = _share(source, Path(folder), options, planned)
        labelled = _labelled(shared)
        _announce(planned, shared, labelled)
        candidates = []
        whole.count(len(planned) + 1, unit="candidate")
        for one in planned:
            candidates.append(_make(one, shared))
            whole.advance()
        reference, notes = None, [*shared.outputs.spec.notes, *shared.outputs.notes]
        if labelled is not None:
            candidates, reference, counted = _counted(candidates, labelled, shared)
            notes += counted
        candidates, report, failed = _timed(candidates, shared)
        notes += () if report is None else (*filter(None, [report.inconclusive]), *report.notes)
        ratios = report.ratios if report is not None else ()
        name, why = recommend(candidates, ratios)
        result = Comparison(
            source=str(source),
            device=options.recipe.device,
            image_source=shared.outputs.image_source,
            candidates=tuple(candidates),
            ratios=ratios,
            recommended=name,
            why=why,
            command=next((one.command for one in candidates if one.name == name), ""),
            reference=reference,
            label_source="" if labelled is None else labelled.title,
            failed=failed,
            notes=tuple(notes),
            seconds=time.perf_counter() - start,
        )
        if keeping is None:
            return result
        return keep(result, {one.name: shared.bundle(one) for one in candidates if one.within}, keeping)


def _share(source: CheckpointSource, folder: Path, options: CompareOptions, planned: Sequence[Planned]) -> _Shared:
    """Reads the checkpoint, builds the reference and runs it on the images."""
    recipe = next(one.recipe for one in planned if one.recipe is not None)
    scratch = folder / "reference"
    scratch.mkdir()
    made: dict[type, Any] = {ExportRequest: ExportRequest(source, recipe, scratch, ExportOptions())}
    with stage("reference") as part:
        seconds = run_stages(made, part, REFERENCE_STAGES)
    images = len(made[ReferenceOutputs].data.images)
    return _Shared(source, folder, options, made, seconds[REFERENCE_STAGES[-1][0]] / images)


def _labelled(shared: _Shared) -> LabelledSet | None:
    """Returns the labelled images, where some were named: before minutes are spent on candidates."""
    if shared.options.eval_images is None:
        return None
    spec = as_predictor(shared.reference, checkpoint(shared.source)).spec
    classes = Classes(spec.classes, spec.labels if len(spec.labels) == spec.classes else ())
    return find_labelled(shared.options.eval_images, classes, channels=spec.in_channels)


def _announce(planned: Sequence[Planned], shared: _Shared, labelled: LabelledSet | None) -> None:
    """Tells what will be done, what cannot be and why, and how long it takes, roughly."""
    for one in planned:
        if one.refused is not None:
            note(f"{one.name} is left out: {one.refused}")
    recipes = {one.name: one.recipe for one in planned if one.recipe is not None}
    count = 0 if labelled is None else labelled.count
    expected = seconds_expected(recipes.values(), shared.image_s, count, shared.options.rule)
    top1 = f" top-1 on {count} images," if count else ""
    say(f"making {', '.join(recipes)}; then{top1} latency in turn: roughly {roughly(expected)} in all")


def _make(planned: Planned, shared: _Shared) -> Candidate:
    """Exports one candidate; what is wrong with it becomes a part of it."""
    start = time.perf_counter()
    candidate = Candidate(
        name=planned.name,
        format=(planned.asked.formats or ("",))[0],
        precision=str(planned.asked.precision),
        profile=next(iter(planned.asked.profiles), ""),
        command=export_command(shared.source, planned.asked),
        outcome=NOT_MADE,
    )
    if planned.recipe is None:
        return replace(candidate, reason=str(planned.refused))
    folder = shared.bundle(planned)
    folder.mkdir()
    tolerance = planned.recipe.tolerance or default_tolerance(planned.recipe.precision, shared.outputs.spec.family)
    outputs = replace(shared.outputs, tolerance=tolerance)
    request = ExportRequest(shared.source, planned.recipe, folder, ExportOptions())
    made = {**shared.known, ReferenceOutputs: outputs, ExportRequest: request}
    try:
        write_reference(folder, outputs.data)
        with stage(planned.name) as part:
            run_stages(made, part)
    except CheckFailed as error:
        reports = made[Checked].parity if Checked in made else ()
        candidate = replace(candidate, outcome=FAILED, reason=str(error), parity=reports)
    except (UserError, MissingBackend) as error:
        candidate = replace(candidate, reason=str(error))
    else:
        candidate = _made(candidate, made[Manifest], made[Engines])
    return replace(candidate, seconds=time.perf_counter() - start)


def _made(candidate: Candidate, manifest: Manifest, engines: Engines) -> Candidate:
    """Returns a candidate with its artifact: the engine, where one is built from a file beside it."""
    artifact = manifest.artifacts[-1]
    return replace(
        candidate,
        outcome=WITHIN,
        artifact=artifact,
        parity=manifest.parity,
        notes=artifact.notes,
        not_timed=" ".join(engines.pending),
    )


def _counted(
    candidates: Sequence[Candidate], labelled: LabelledSet, shared: _Shared
) -> tuple[list[Candidate], SubjectAccuracy, list[str]]:
    """Counts the top-1 of the reference and of what is within tolerance, on the same images.

    Returns:
        The candidates, of which those fail that lose more than is allowed; the accuracy of the reference; and sentences
        about the images.
    """
    device = shared.options.recipe.device
    with ExitStack() as stack:
        session = None if device == LOCAL else stack.enter_context(connect(device))
        rows = [replace(as_predictor(shared.reference, checkpoint(shared.source)), label="reference")]
        for one in candidates:
            if one.artifact is not None:
                subject = replace(_subject(shared.bundle(one), one.artifact), label=one.name)
                rows.append(stack.enter_context(opened(subject, Weights(), None, session)))
        count = Count(rows, with_reference=True)
        stream = classify(count, labelled)[0]
    reference, *others = count.rows()
    found = {row.subject: (row, pair) for row, pair in zip(others, count.comparisons(), strict=True)}
    limit = shared.options.max_drop
    told = [_with_accuracy(one, *found[one.name], limit) if one.name in found else one for one in candidates]
    return told, reference, [*filter(None, [labelled.note]), *tell_skipped(stream.skipped)]


def _subject(bundle: Path, artifact: Artifact) -> Subject:
    """Returns an artifact of a bundle; of an engine that does not run here, the file that it was made from."""
    subjects = find([str(bundle)])
    return next((one for one in subjects if one.artifact == artifact), subjects[0])


def _with_accuracy(
    candidate: Candidate, row: SubjectAccuracy, pair: PairedAccuracy, max_drop: float | None
) -> Candidate:
    candidate = replace(candidate, accuracy=row, loss=pair)
    # Whole images are compared, as `vitedge.verbs.evaluate` does.
    if max_drop is None or pair.lost - pair.gained <= (max_drop / 100 + 1e-9) * row.top1.total:
        return candidate
    reason = f"It loses {pair.drop_points:.2f} points of top-1 against the reference; {max_drop:g} were allowed."
    return replace(candidate, outcome=FAILED, reason=reason)


def _timed(candidates: Sequence[Candidate], shared: _Shared) -> tuple[list[Candidate], BenchReport | None, str]:
    """Measures in turn what is within tolerance and runs on the device.

    Returns:
        The candidates with their latency, or why they have none; the report; and what failed on the device.
    """
    options = shared.options
    told = list(candidates)
    with connect(options.recipe.device) as session:
        models = []
        for index, one in enumerate(told):
            if one.within and one.artifact is not None and not one.not_timed:
                model, refused = _measured(one, one.artifact, shared, session)
                told[index] = replace(one, not_timed=refused)
                models += [] if refused else [replace(model, threads=options.threads)]
        if not models:
            return told, None, ""
        try:
            with stage("latency"):
                report = measure_in_turn(models, session, options.rule, every_pair=True)
        except (CheckFailed, DeviceFailed) as error:
            names = [model.label for model in models]
            return [replace(one, not_timed=str(error)) if one.name in names else one for one in told], None, str(error)
    found = {one.subject: one for one in report.reports}
    return [replace(one, latency=found.get(one.name)) for one in told], report, ""


def _measured(candidate: Candidate, artifact: Artifact, shared: _Shared, session: Session) -> tuple[MeasuredModel, str]:
    """Returns a candidate as a model to be measured, and why it does not run on the device, or empty."""
    runtime = FORMATS[artifact.format].runtimes[-1]
    refused = _elsewhere(candidate, session) or session.refusal(runtime) or too_old(session, artifact, runtime)
    path = shared.bundle(candidate) / artifact.path
    return MeasuredModel(candidate.name, runtime, str(path), declared=declared(artifact)), refused


def _elsewhere(candidate: Candidate, session: Session) -> str:
    """Returns that a candidate is for another device than the one that it would be measured on, or empty.

    How long it takes here does not say how long it takes there, nor even which of two is faster.
    """
    profile = candidate.profile
    if not profile or named(profile).fits is None or profile in fitting(session.identity()):
        return ""
    here = "this machine" if session.name == LOCAL else session.name
    return f"{profile} is another device than {here}: add --device ssh:HOST to time it there, or leave --for out."
