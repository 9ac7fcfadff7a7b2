# SPDX-License-Identifier: Apache-2.0
"""The lowering of an export: from what was read, built and quantized to the artifacts of all formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from vitedge import registry
from vitedge.checkpoints.read import Checkpoint
from vitedge.export.float16.float32_modules import Float32Modules, find_float32_modules, sample
from vitedge.export.float16.lowering import lower_in_range
from vitedge.export.formats import FORMATS, LOWERINGS, lowered
from vitedge.files.bundle import ReferenceData
from vitedge.models.reference import Reference
from vitedge.parity.artifact import ReferenceOutputs
from vitedge.parity.float16_range import check_overflow
from vitedge.program.capture import BATCH_AXIS, capture
from vitedge.program.program import Program
from vitedge.quantization.file.model import Model
from vitedge.quantization.run import Quantization
from vitedge.recipe import ResolvedRecipe
from vitedge.records import Artifact, CheckpointIdentity, ModelSpec


@dataclass(frozen=True)
class ExportRequest:
    """One export: its source, its recipe, and where it is written."""

    source: str
    recipe: ResolvedRecipe
    folder: Path
    """Where files are written; it gets the bundle's own name when all stages are done."""
    compare_speed: bool
    """Whether a quantized file is timed beside float ones."""
    progress: Callable[[str], None]


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
    """The plan of quantization; None where nothing is rounded, or where the source was quantized before."""

    quantization: Quantization | None


@dataclass(frozen=True)
class LoweredArtifact:
    """One artifact, and the program that it was lowered from."""

    artifact: Artifact
    program: Program


@dataclass(frozen=True)
class Lowered:
    """All artifacts, in the order of their formats."""

    artifacts: tuple[LoweredArtifact, ...]


def lower(
    request: ExportRequest,
    source: ExportSource,
    built: Built,
    reference_outputs: ReferenceOutputs,
    quantized: Quantized,
) -> Lowered:
    """Captures the program once for each batch size and lowers it to every format."""
    recipe = request.recipe
    programs: dict[int | str, tuple[Program, Float32Modules]] = {}
    artifacts: list[LoweredArtifact] = []
    for name in lowered(recipe.formats):
        fixed = FORMATS[name].fixed_batch if recipe.batch == "dynamic" else ""
        batch = 1 if fixed else recipe.batch
        if batch not in programs:
            program = _program(request, source, built, quantized, batch)
            programs[batch] = program, _float32_modules(request, program, reference_outputs)
        program, kept = programs[batch]
        artifact = _lowered(request, name, program, kept, reference_outputs)
        notes = (*artifact.notes, *kept.notes)
        if fixed and program.inputs[0].shape[0] != BATCH_AXIS:
            notes = (*notes, f"the batch is fixed at 1: {fixed}")
        artifacts.append(LoweredArtifact(replace(artifact, notes=notes), program))
    return Lowered(tuple(artifacts))


def _program(
    request: ExportRequest, source: ExportSource, built: Built, quantized: Quantized, batch: int | str
) -> Program:
    """Returns the program to be lowered at a batch."""
    if isinstance(source.content, Model):
        return source.content.program
    if quantized.quantization is not None:
        return quantized.quantization.program(batch, request.recipe.input)
    return float_program(request, built, batch)


def float_program(request: ExportRequest, built: Built, batch: int | str) -> Program:
    """Captures the reference without quantization."""
    recipe, reference, features = request.recipe, built.reference, built.features(request.recipe)
    if reference is None:
        raise ValueError("a quantized program has no float one")
    module = reference.deployed(uint8=recipe.input == "uint8", features=features)
    return capture(module, reference.spec, reference.blocks, batch=batch, dtype=recipe.input, features=features)


def _float32_modules(request: ExportRequest, program: Program, reference_outputs: ReferenceOutputs) -> Float32Modules:
    """Finds the modules that stay in float32; none where nothing is narrowed."""
    recipe = request.recipe
    if recipe.precision != "fp16":
        return Float32Modules()
    sqnr_db = reference_outputs.tolerance.centred_sqnr_db
    if sqnr_db is not None:
        sqnr_db = max(sqnr_db, *(FORMATS[name].fp16_sqnr_db for name in lowered(recipe.formats)))
    return find_float32_modules(program, reference_outputs.data.images, reference_outputs.data.outputs, sqnr_db)


def _lowered(
    request: ExportRequest,
    name: str,
    program: Program,
    kept: Float32Modules,
    reference_outputs: ReferenceOutputs,
) -> Artifact:
    """Writes the artifact of a format; one of half precision is watched where it can be, and written again.

    In ONNX that is not needed: its graph is the captured one, operator by operator.
    """
    recipe, kind = request.recipe, FORMATS[name]
    lowering, path = registry.load(LOWERINGS, name), request.folder / kind.file

    def write(float32_modules: tuple[str, ...]) -> Artifact:
        artifact: Artifact = lowering.lower(program, recipe, path, float32_modules)
        return artifact

    if recipe.precision != "fp16" or kind.overflow is None:
        return write(kept.modules)
    images = reference_outputs.data.images[sample(len(reference_outputs.data.images))]
    few = ReferenceData(images, {})
    return lower_in_range(
        write, path, lambda artifact: check_overflow(path, artifact, few, reference_outputs.spec), kept.modules
    )
