# SPDX-License-Identifier: Apache-2.0
"""The main job: a checkpoint in, a verified bundle out.

`STAGES` is the whole of it, in order. Each stage takes from the job what the ones before it left there, adds its own
part, and refuses to go on when what it made is not what was asked for.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from vitedge import registry
from vitedge.checkpoints.read import Checkpoint, read
from vitedge.devices import profiles
from vitedge.errors import CheckFailed, DeviceFailed, MissingBackend, UserError
from vitedge.export.coreml.expected_weights import expected_weights
from vitedge.export.float16.noise import find_noisy
from vitedge.export.float16.ranges import find_islands
from vitedge.export.tensorrt.readiness import check_tensorrt
from vitedge.files.bundle import REFERENCE, ReferenceData, versions, write_manifest, write_reference
from vitedge.files.digest import hash_file
from vitedge.files.replacing import replacing
from vitedge.images.image_set import load
from vitedge.models.reference import Reference, load_reference
from vitedge.parity.artifact import Evidence, check_parity, check_structure, feed
from vitedge.parity.float16_range import lower_in_range
from vitedge.parity.metrics import compare, default_bar, judge
from vitedge.parity.reference import gather, judge_layers, judge_program
from vitedge.program.capture import BATCH_AXIS, capture
from vitedge.program.modules import execution_order
from vitedge.program.program import Program
from vitedge.quantization.file.header import SUFFIX
from vitedge.quantization.file.model import Model, read_model
from vitedge.quantization.recording import record
from vitedge.quantization.records import SpeedVerdict
from vitedge.quantization.run import Quantization
from vitedge.quantization.simulation import hold_to, simulate
from vitedge.recipe import SCHEMES, ExportRecipe
from vitedge.records import (
    Artifact,
    CheckpointIdentity,
    ExportResult,
    Manifest,
    ModelSpec,
    ParityReport,
    StructureReport,
)
from vitedge.serialization import to_dict
from vitedge.verbs.quantize import of_file, prepare, target
from vitedge.verdict import judge_speed

FILE_NAMES = {"onnx": "model.onnx", "coreml": "model.mlpackage"}
"""Format to the name of its artifact in the bundle."""
_ISLAND_IMAGES = 4
"""Images over which the ranges and the rounding noise of half-precision values are watched."""
_COREML_DB = 45.0
"""What half precision aims at for Core ML where the bar is lower: an operator becomes several, each of which rounds."""


@dataclass
class Job:
    """One export under way."""

    source: str
    recipe: ExportRecipe
    folder: Path
    """Where files are written; it gets the bundle's own name when all stages are done."""
    identity: CheckpointIdentity = field(init=False)
    checkpoint: Checkpoint = field(init=False)
    reference: Reference | None = None
    """None where the source is a quantized program, which brings what its reference computes."""
    model: Model | None = None
    """The quantized program that is the source."""
    spec: ModelSpec = field(init=False)
    evidence: Evidence = field(init=False)
    quantization: Quantization | None = None
    progress: Callable[[str], None] = lambda _text: None
    programs: dict[str, Program] = field(default_factory=dict)
    """By format; the same program for all, but for Core ML's fixed batch."""
    artifacts: list[Artifact] = field(default_factory=list)
    parity: list[ParityReport] = field(default_factory=list)
    structure: list[StructureReport] = field(default_factory=list)
    verdict: SpeedVerdict | None = None
    """Whether quantization paid on this machine."""
    manifest: Manifest = field(init=False)

    @property
    def features(self) -> bool:
        """Whether the artifacts put out features; a headless encoder has nothing else."""
        return self.recipe.features or self.spec.classes == 0

    @property
    def formats(self) -> tuple[str, ...]:
        """What is lowered: an engine starts from the ONNX file of its profile."""
        asked = ("onnx" if name == "tensorrt" else name for name in self.recipe.formats)
        return tuple(dict.fromkeys(asked))


def read_checkpoint(job: Job) -> None:
    """Reads the checkpoint, or the program that was quantized, and finds out what it is."""
    if job.source.endswith(SUFFIX):
        job.model = read_model(Path(job.source))
        job.identity, job.spec = job.model.checkpoint, job.model.program.spec
        return
    checkpoint = job.checkpoint = read(job.source, weights=job.recipe.weights, overrides=job.recipe.overrides)
    job.identity = CheckpointIdentity(checkpoint.source, checkpoint.sha256(), checkpoint.size, checkpoint.weight_set)


def build_reference(job: Job) -> None:
    """Builds the PyTorch model at the size that was asked for."""
    if job.model is None:
        job.reference = load_reference(job.checkpoint, job.recipe.image_size)
        job.spec = job.reference.spec


def run_reference(job: Job) -> None:
    """Chooses the images and keeps what the reference makes of them."""
    recipe = job.recipe
    bar = recipe.bar or default_bar(recipe.precision, job.spec.family)
    if job.model is not None:
        job.evidence = Evidence(job.model.evidence, job.spec, bar, f"those in {Path(job.source).name}")
    elif job.reference is not None:
        images = load(recipe.images, job.spec, recipe.image_count, recipe.seed)
        job.evidence = gather(job.reference, images, bar, features=job.features)
    write_reference(job.folder, job.evidence.data)


def quantize(job: Job) -> None:
    """Decides what a quantized program rounds, where one was asked for."""
    if job.reference is not None and job.recipe.precision in SCHEMES:
        job.quantization = prepare(job.reference, job.recipe, features=job.features, progress=job.progress)
        missed = job.quantization.spent.held.missed
        if missed:
            raise CheckFailed(
                f"The budget was not met: {missed}. Nothing was written; vitedge quantize writes the best there is."
            )


def lower(job: Job) -> None:
    """Captures the program once and lowers it to every format."""
    found: dict[int, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    for name in job.formats:
        program = job.programs[name] = _program(job, name)
        # Formats of the same batch share a program, and what has to stay in float32 with it.
        if id(program) not in found:
            found[id(program)] = _islands(job, program)
        islands, notes = found[id(program)]
        if job.recipe.batch == "dynamic" and program.inputs[0].shape[0] != BATCH_AXIS:
            notes = (*notes, "the batch is fixed at 1: Core ML has no dynamic one that is quick")
        artifact = _lowered(job, name, islands)
        job.artifacts.append(replace(artifact, notes=(*artifact.notes, *notes)))


def check(job: Job) -> None:
    """Compares every artifact with the reference.

    Raises:
        CheckFailed: names the artifact, what it missed, and the first block that departs.
    """
    for artifact in job.artifacts:
        path = job.folder / artifact.path
        reports = check_parity(path, artifact, job.evidence)
        if job.recipe.precision in SCHEMES:
            data = job.evidence.data
            simulated = compare(data.outputs, simulate(job.programs[artifact.format], data.images))
            reports = tuple(hold_to(report, simulated) for report in reports)
        reports = tuple(_explained(job, path, artifact, reports))
        job.parity.extend(reports)
        if artifact.format == "coreml":
            job.structure.append(check_structure(path, artifact, expected_weights(job.programs["coreml"])))
        elif job.recipe.precision in SCHEMES and target(job.recipe) == "tensorrt":
            job.structure.append(check_tensorrt(path, int(artifact.target.removeprefix("opset "))))
    verdicts: list[ParityReport | StructureReport] = [*job.parity, *job.structure]
    for verdict in verdicts:
        if not verdict.passed:
            said = f"{verdict.artifact} does not compute what the checkpoint computes: {verdict.reason}."
            raise CheckFailed(f"{said}{_remedy(job, verdict)}")


def _remedy(job: Job, verdict: ParityReport | StructureReport) -> str:
    """What can be done about a quantized artifact that misses its bar; of anything else, nothing."""
    missed = isinstance(verdict, ParityReport) and judge(verdict.outputs, verdict.bar)
    if job.recipe.precision not in SCHEMES or not missed:
        return ""
    if job.recipe.precision == "mixed":
        return " Leave layers in float with --layer NAME=float, or lower the bar with --min-sqnr."
    return " Ask for --precision mixed, which leaves in float what loses most, or lower the bar with --min-sqnr."


def _explained(job: Job, path: Path, artifact: Artifact, reports: tuple[ParityReport, ...]) -> Iterator[ParityReport]:
    """The reports, with the first layer that departs."""
    for report in reports:
        if artifact.format == "coreml" and report is reports[0]:
            judged = judge_program(report, path, artifact, job.programs["coreml"], job.evidence)
            yield judged if not judged.passed else replace(judged, layers=())
        elif not report.passed and job.reference is not None:
            yield judge_layers(report, path, artifact, job.reference, job.evidence)
        else:
            yield report


def time_quantized(job: Job) -> None:
    """Measures whether the quantized ONNX file is faster than float ones; an answer, not a condition."""
    quantization, name = job.quantization, "onnx"
    if quantization is None or quantization.recipe.verdict == "off" or name not in job.programs:
        return
    if quantization.target == "tensorrt":
        return  # its form is slow on a processor by design
    try:
        job.verdict = judge_speed(
            job.folder / FILE_NAMES[name], _float_program(job, job.recipe.batch), job.recipe, progress=job.progress
        )
    except DeviceFailed as failed:
        job.verdict = SpeedVerdict(f"Whether it is faster could not be measured: {failed}")


def seal(job: Job) -> None:
    """Writes the manifest, the last file of the bundle."""
    job.manifest = Manifest(
        format_version=1,
        checkpoint=job.identity,
        spec=job.spec,
        recipe=to_dict(job.recipe),
        artifacts=tuple(job.artifacts),
        parity=tuple(job.parity),
        structure=tuple(job.structure),
        latency=None,
        quantization=_quantization(job),
        files={REFERENCE: hash_file(job.folder / REFERENCE)},
        versions=versions(),
    )
    write_manifest(job.folder, job.manifest)


def _quantization(job: Job) -> Mapping[str, Any] | None:
    """What quantization did, as plain values."""
    if job.model is not None:
        return cast("Mapping[str, Any]", to_dict(job.model.record))
    if job.quantization is None:
        return None
    return cast("Mapping[str, Any]", to_dict(replace(record(job.quantization), verdict=job.verdict)))


STAGES: tuple[tuple[str, Callable[[Job], None]], ...] = (
    ("reading the checkpoint", read_checkpoint),
    ("building the reference", build_reference),
    ("running the reference", run_reference),
    ("quantizing", quantize),
    ("lowering", lower),
    ("checking parity", check),
    ("timing", time_quantized),
    ("sealing the bundle", seal),
)


def export(
    source: str,
    bundle: Path,
    recipe: ExportRecipe | None = None,
    *,
    force: bool = False,
    progress: Callable[[str], None] = lambda _text: None,
) -> ExportResult:
    """Writes a verified bundle of a checkpoint.

    Args:
        source: a file, a folder, ``timm:NAME`` or ``hf:NAME``.
        bundle: the folder to write; what is there stays until the new bundle is complete and verified.
        recipe: what to write; the default is one fp32 ONNX file.
        force: replace a bundle that is there.
        progress: called with one line a stage.

    Raises:
        UserError: the checkpoint, the recipe or the output is not usable.
        MissingBackend: a package that a format needs is not installed.
        CheckFailed: an artifact missed its bar; nothing was written.
    """
    asked = recipe or ExportRecipe()
    recipe = of_file(asked, source) if source.endswith(SUFFIX) else profiles.apply(asked)
    _refuse_missing(recipe)
    seconds: dict[str, float] = {}
    with replacing(bundle, force=force) as folder:
        job = Job(source, recipe, folder, progress=progress)
        for title, stage in STAGES:
            if stage not in (quantize, time_quantized) or recipe.precision in SCHEMES:
                progress(f"{title} …")
            start = time.perf_counter()
            with _within_memory(title):
                stage(job)
            seconds[title] = time.perf_counter() - start
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return ExportResult(str(bundle), size, job.manifest, seconds, _pending(recipe))


def _program(job: Job, name: str) -> Program:
    recipe, reference = job.recipe, job.reference
    if job.model is not None or reference is None:
        return cast("Model", job.model).program
    batch = 1 if name == "coreml" and recipe.batch == "dynamic" else recipe.batch
    for program in job.programs.values():
        if batch != "dynamic" and program.inputs[0].shape[0] == batch:
            return program
    if job.quantization is not None:
        return job.quantization.program(batch, recipe.input)
    return _float_program(job, batch)


def _float_program(job: Job, batch: int | str) -> Program:
    """The reference as it is captured without quantization."""
    recipe, reference = job.recipe, cast("Reference", job.reference)
    module = reference.deployed(uint8=recipe.input == "uint8", features=job.features)
    return capture(module, reference.spec, reference.blocks, batch=batch, dtype=recipe.input, features=job.features)


def _lowered(job: Job, name: str, islands: tuple[str, ...]) -> Artifact:
    """The artifact of a format; a Core ML package of half precision is watched, and lowered again where it overflows.

    (In ONNX that is not needed: its graph is the captured one, operator by operator.)
    """
    target, path = registry.load(registry.TARGETS, name), job.folder / FILE_NAMES[name]

    def write(single: tuple[str, ...]) -> Artifact:
        artifact: Artifact = target.lower(job.programs[name], job.recipe, path, single)
        return artifact

    if name != "coreml" or job.recipe.precision != "fp16":
        return write(islands)
    images = job.evidence.data.images[_sample(job)]
    return lower_in_range(write, path, replace(job.evidence, data=ReferenceData(images, {})), islands)


def _sample(job: Job) -> list[int]:
    """Numbers of a few of the images, spread over all of them: those that follow one another may be alike."""
    count = len(job.evidence.data.images)
    return [round(number) for number in np.linspace(0, count - 1, min(_ISLAND_IMAGES, count)).tolist()]


def _islands(job: Job, program: Program) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Modules that have to stay in float32, and what to tell about them; none where nothing is narrowed."""
    if job.recipe.precision != "fp16":
        return (), ()
    data, bar = job.evidence.data, job.evidence.bar.centred_sqnr_db
    if bar is not None and "coreml" in job.formats:
        bar = max(bar, _COREML_DB)
    images = feed(data.images[_sample(job)], program.inputs[0], job.spec)
    large = find_islands(program, images)
    outputs = [data.outputs[spec.name] for spec in program.outputs]
    noisy = () if bar is None else find_noisy(program, images, outputs, bar, already=large)
    if not noisy:
        return large, ()
    count = len(execution_order(program))
    return large + noisy, (f"{len(noisy)} of {count} modules stay in float32 so that half precision holds {bar:g} dB",)


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


def _refuse_missing(recipe: ExportRecipe) -> None:
    """Refuses a format whose packages are not installed before any work is done."""
    for name in recipe.formats:
        if registry.TARGETS[name].module:
            registry.load(registry.TARGETS, name)


def _pending(recipe: ExportRecipe) -> tuple[str, ...]:
    """What was asked for and is not built on this machine."""
    found = []
    for name in recipe.formats:
        try:
            registry.load(registry.TARGETS, name)
        except MissingBackend as missing:
            found.append(str(missing))
    return tuple(found)
