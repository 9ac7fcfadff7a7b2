# SPDX-License-Identifier: Apache-2.0
"""The lowering of an export: from what was read, built and quantized to the artifacts of all formats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from vitedge import registry
from vitedge.checkpoints.read import Checkpoint, CheckpointSource
from vitedge.errors import CheckFailed
from vitedge.export.float16.float32_modules import Float32Modules, HalfPrecision, half_share, sample
from vitedge.export.float16.lowering import lower_in_range
from vitedge.export.formats import FORMATS, LOWERINGS
from vitedge.files.bundle import ReferenceData
from vitedge.models.reference import Reference
from vitedge.parity.artifact import ReferenceOutputs
from vitedge.parity.float16_range import check_overflow
from vitedge.parity.metrics import default_tolerance
from vitedge.program.capture import BATCH_AXIS, capture
from vitedge.program.program import Program
from vitedge.program.unrounded import without_rounding
from vitedge.progress import stage
from vitedge.quantization.file.model import Model
from vitedge.quantization.run import Quantization
from vitedge.recipe import Precision, ResolvedRecipe
from vitedge.records import Artifact, CheckpointIdentity, ModelSpec
from vitedge.verbs.runtime_versions import check_written
from vitedge.verbs.targets import Target, targets

_MOST = 0.5
"""Share of the weights below which half precision gains little."""
_LOWER_DB = (60, 50, 40, 35, 30, 25)
"""Centred SQNR in dB of which those below the tolerance are looked at then."""


@dataclass(frozen=True)
class ExportOptions:
    """How an export is done, whatever it writes."""

    force: bool = False
    """Whether a bundle that is there is replaced."""
    compare_speed: bool = False
    """Whether a quantized file is timed beside float ones."""
    keep_failed: bool = False
    """Whether artifacts that exceed their tolerance are kept."""


@dataclass(frozen=True)
class ExportRequest:
    """One export: its source, its recipe, and where it is written."""

    source: CheckpointSource
    recipe: ResolvedRecipe
    folder: Path
    """Where files are written; it gets the bundle's own name when all stages are done."""
    options: ExportOptions


@dataclass(frozen=True)
class ExportSource:
    """The source of an export, as it was read."""

    identity: CheckpointIdentity
    content: Checkpoint | Model
    """A checkpoint, or a quantized program, which has the outputs of its reference with it."""


@dataclass(frozen=True)
class Built:
    """The PyTorch model."""

    spec: ModelSpec
    reference: Reference | None
    """None where the source is a quantized program."""

    def features(self, recipe: ResolvedRecipe) -> bool:
        """Returns whether artifacts put out features; a headless encoder has nothing else."""
        return recipe.features or self.spec.classes == 0


@dataclass(frozen=True)
class Quantized:
    """The plans of quantization."""

    plans: Mapping[str, Quantization]
    """Form of a target to its plan; empty where nothing is rounded, or where the source was quantized before."""


@dataclass(frozen=True)
class LoweredArtifact:
    """One artifact, what it was asked for, and the program that it was lowered from."""

    artifact: Artifact
    target: Target
    program: Program
    float32_modules: tuple[str, ...]
    """Modules that stay in float32 because the values ask for it."""


@dataclass(frozen=True)
class Lowered:
    """All artifacts, in the order of their targets."""

    artifacts: tuple[LoweredArtifact, ...]


def lower(
    request: ExportRequest,
    source: ExportSource,
    built: Built,
    reference_outputs: ReferenceOutputs,
    quantized: Quantized,
) -> Lowered:
    """Captures the program once for each form and batch size, and lowers it to every target.

    Raises:
        CheckFailed: half precision was asked for, and can be had nowhere; or a file needs a newer runtime than named.
    """
    programs: dict[tuple[str, int | str], Program] = {}
    halves: dict[tuple[str, int | str], HalfPrecision] = {}
    artifacts: list[LoweredArtifact] = []
    for target in targets(request.recipe):
        fixed = FORMATS[target.format].fixed_batch if request.recipe.batch == "dynamic" else ""
        form = target.recipe.form if quantized.plans else ""
        key = form, 1 if fixed else request.recipe.batch
        if key not in programs:
            with stage("capturing the program"):
                programs[key] = _program(request, source, built, quantized.plans.get(form), key[1])
        kept = Float32Modules()
        if target.recipe.is_half:
            with stage("looking for what half precision loses"):
                halves[key] = halves.get(key) or _half_precision(programs[key], reference_outputs)
                kept = _float32_modules(target, halves[key], reference_outputs)
        if kept.modules and target.recipe.precision is Precision.FP16:
            told = _narrowed(programs[key], kept, halves[key], *_wanted(target, reference_outputs))
            kept = replace(kept, notes=(*kept.notes, *told))
        with stage(f"writing {target.file}"):
            artifact = _lowered(request, target, programs[key], kept, reference_outputs)
        notes = (*artifact.notes, *kept.notes, *check_written(artifact, target.recipe))
        if fixed and programs[key].inputs[0].shape[0] != BATCH_AXIS:
            notes = (*notes, f"the batch is fixed at 1: {fixed}")
        artifacts.append(LoweredArtifact(replace(artifact, notes=notes), target, programs[key], kept.modules))
    return Lowered(tuple(artifacts))


def _program(
    request: ExportRequest, source: ExportSource, built: Built, plan: Quantization | None, batch: int | str
) -> Program:
    """Returns the program to be lowered at a batch."""
    if isinstance(source.content, Model):
        return source.content.program
    if plan is not None:
        return plan.program(batch, request.recipe.input)
    return float_program(request, built, batch)


def float_program(request: ExportRequest, built: Built, batch: int | str) -> Program:
    """Captures the reference without quantization."""
    recipe, reference, features = request.recipe, built.reference, built.features(request.recipe)
    if reference is None:
        raise ValueError("a quantized program has no float one")
    module = reference.deployed(uint8=recipe.input == "uint8", features=features)
    return capture(module, reference.spec, reference.blocks, batch=batch, dtype=recipe.input, features=features)


def _half_precision(program: Program, reference_outputs: ReferenceOutputs) -> HalfPrecision:
    """Returns what half precision does to a program.

    A quantized one is watched on its values before they are rounded to integers: that rounding has no derivative, along
    which the noise of half precision is followed, and hides nothing that overflows.
    """
    data = reference_outputs.data
    return HalfPrecision(without_rounding(program), data.images, data.outputs)


def _float32_modules(target: Target, half: HalfPrecision, reference_outputs: ReferenceOutputs) -> Float32Modules:
    """Returns the modules of an artifact in half precision that stay in float32.

    What quantization leaves in floating point is held to the tolerance of half precision, which is far below its own.
    """
    sqnr_db = default_tolerance(Precision.FP16, reference_outputs.spec.family).centred_sqnr_db
    if target.recipe.precision is Precision.FP16:
        sqnr_db = reference_outputs.tolerance.centred_sqnr_db
    wanted = None if sqnr_db is None else max(sqnr_db, FORMATS[target.format].fp16_sqnr_db)
    return half.float32_modules(wanted)


def _wanted(target: Target, reference_outputs: ReferenceOutputs) -> tuple[float, float]:
    """Returns the centred SQNR in dB that fp16 is held to, 0 where ranges alone count, and the least of the format."""
    least = FORMATS[target.format].fp16_sqnr_db
    return max(reference_outputs.tolerance.centred_sqnr_db or 0.0, least), least


def _narrowed(
    program: Program, kept: Float32Modules, half: HalfPrecision, sqnr_db: float, least_db: float
) -> Iterator[str]:
    """Yields the share of the weights that fp16 applies to, and where it is small what a lower tolerance would give.

    Args:
        program: the captured reference.
        kept: its modules that stay in float32.
        half: what half precision does to it.
        sqnr_db: centred SQNR in dB that was held.
        least_db: the smallest that a format holds, whatever the tolerance.

    Raises:
        CheckFailed: it applies to none.
    """
    found = half_share(program, kept.modules)
    if found == 0:
        raise CheckFailed(
            "No weight can be float16: every module with weights would have to stay in float32; export with "
            "--precision fp32, or allow less with --min-sqnr where rounding is the reason."
        )
    yield f"{found:.1%} of the weights are float16, which saves {found / 2:.0%} of their bytes in fp32"
    if found < _MOST:
        lower = sorted((db for db in _LOWER_DB if least_db <= db < sqnr_db), reverse=True)
        shares = {db: half_share(program, half.float32_modules(db).modules) for db in lower}
        told = [f"{share:.1%} with --min-sqnr {db}" for db, share in shares.items() if share > found][:2]
        more = f"make it {' or '.join(told)}" if told else "not make it more"
        yield f"a lower tolerance would {more}"


def _lowered(
    request: ExportRequest,
    target: Target,
    program: Program,
    kept: Float32Modules,
    reference_outputs: ReferenceOutputs,
) -> Artifact:
    """Writes the artifact of a target; one of half precision is watched where it can be, and written again.

    In ONNX that is not needed: its graph is the captured one, operator by operator.
    """
    lowering, path = registry.load(LOWERINGS, target.format), request.folder / target.file

    def write(float32_modules: tuple[str, ...]) -> Artifact:
        artifact: Artifact = lowering.lower(program, target.recipe, path, float32_modules)
        return artifact

    if not target.recipe.is_half or FORMATS[target.format].overflow is None:
        return write(kept.modules)
    images = reference_outputs.data.images[sample(len(reference_outputs.data.images))]
    few = ReferenceData(images, {})
    return lower_in_range(
        write, path, lambda artifact: check_overflow(path, artifact, few, reference_outputs.spec), kept.modules
    )
