# SPDX-License-Identifier: Apache-2.0
"""The verb ``quantize``: a checkpoint and images in, one quantized program with the proof of what it computes out."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vitedge.accuracy.count import count_top1
from vitedge.checkpoints.assumptions import refuse_assumed
from vitedge.checkpoints.read import CheckpointSource, read
from vitedge.devices.fitting import AUTO
from vitedge.devices.session import connect
from vitedge.errors import BadRecipe, CheckFailed, UnusableActivations
from vitedge.export.formats import QuantizedForm
from vitedge.files.bundle import ReferenceData
from vitedge.files.replacing import refuse_existing_file, replacing_file
from vitedge.images.class_names import classes_of
from vitedge.images.image_set import load
from vitedge.images.label_files import named
from vitedge.images.labelled import find_labelled
from vitedge.images.stream import open_images
from vitedge.latency.kernels import kernel_times
from vitedge.models.reference import Reference, load_reference
from vitedge.parity.metrics import degeneracy
from vitedge.program.program import Program
from vitedge.progress import Progress, reporting, stage
from vitedge.quantization.applied import layer_scheme, share
from vitedge.quantization.effort import EXTENTS
from vitedge.quantization.file.header import SUFFIX
from vitedge.quantization.file.model import Model, write_model
from vitedge.quantization.recording import record
from vitedge.quantization.records import QuantizationResult
from vitedge.quantization.run import Quantization
from vitedge.quantization.run import quantize as run
from vitedge.recipe import CALIBRATED, CALIBRATION_COUNT, ExportRecipe, Precision, QuantizationRecipe, ResolvedRecipe
from vitedge.records import CheckpointIdentity
from vitedge.registry import LOCAL, check_device
from vitedge.verbs.resolve import resolve
from vitedge.verbs.targets import strictest, targets


def quantize(
    source: CheckpointSource,
    out: Path,
    asked: ExportRecipe,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> QuantizationResult:
    """Writes a quantized program.

    Args:
        source: a file, a folder, ``timm:NAME`` or ``hf:NAME``; or weights in memory.
        out: the ``.pt2`` file to write; what is there stays until the new one is complete.
        asked: its precision is a scheme of quantization, int8 where it says none; image size, batch and input are
            those of the program.
        force: replace a file that is there.
        progress: as `vitedge.progress.reporting` takes it: who is told how far it is; None tells nobody.

    Raises:
        UserError: the checkpoint, the images, the recipe or the output is not usable.
        CheckFailed: the outputs of the reference are degenerate, so that nothing could be compared with them.
    """
    if out.suffix != SUFFIX:
        name = shlex.quote(str(out.with_suffix(SUFFIX)))
        raise BadRecipe(f"A quantized program is a {SUFFIX} file; name the output {name}.")
    refuse_existing_file(out, force=force)
    check_device(asked.device)
    scheme = asked.quantization.scheme if asked.quantization is not None else Precision.INT8
    _refuse_idle_device(asked)
    with reporting(progress), stage("quantize", whole=True):
        return _written(source, out, resolve(replace(asked, precision=asked.precision or scheme), str(source)))


def _written(source: CheckpointSource, out: Path, recipe: ResolvedRecipe) -> QuantizationResult:
    """Quantizes, and writes the file in one step."""
    with stage("reading the checkpoint"):
        checkpoint = read(source, weights=recipe.weights, overrides=recipe.overrides, features=recipe.features)
    refuse_assumed(checkpoint.spec, checkpoint.source, accepted=recipe.accept_assumptions or checkpoint.accepted)
    checkpoint = replace(checkpoint, spec=named(checkpoint.spec, recipe.labels))
    with stage("building the reference"):
        reference = load_reference(checkpoint, recipe.image_size)
    features = recipe.features or reference.spec.classes == 0
    images = load(settings(recipe).images or recipe.images, reference.spec, recipe.image_count, recipe.seed)
    with stage("running the reference"):
        outputs = reference.outputs(images.pixels, features=features)
    _refuse_unusable(checkpoint.source, outputs, images.source)
    job = quantize_reference(reference, recipe, strictest(targets(recipe)), features=features)
    identity = CheckpointIdentity(checkpoint.source, checkpoint.sha256(), checkpoint.size, checkpoint.weight_set)
    done = record(job)
    with stage(f"writing {out.name}"), replacing_file(out) as partial:
        program, data = job.program(recipe.batch, recipe.input), ReferenceData(images.pixels, outputs)
        write_model(partial, Model(program, done, identity, data, checkpoint.steps))
    variant, size = reference.spec.variant, out.stat().st_size
    return QuantizationResult(str(out), size, identity, variant, done, done.missed, recipe.profiles)


def _refuse_idle_device(asked: ExportRecipe) -> None:
    """Refuses a device that would do nothing: it is asked for a profile that fits, and its times are a budget's.

    Raises:
        BadRecipe: neither was asked for.
    """
    budget = asked.quantization
    if asked.device == LOCAL or AUTO in asked.profiles:
        return
    if budget is None or (budget.min_sqnr is None and budget.max_drop is None):
        raise BadRecipe(
            f"Nothing of this would run on {asked.device}: add a budget (--min-sqnr or --max-drop), whose times are "
            "the device's, or --for auto; or leave --device out, and name it to vitedge export."
        )


def _refuse_unusable(source: str, outputs: Mapping[str, npt.NDArray[np.float32]], images: str) -> None:
    """Refuses reference outputs that nothing can be compared with, before anything is calibrated.

    Raises:
        UnusableActivations: they hold NaN or infinity.
        CheckFailed: they are degenerate.
    """
    odd = [name for name, values in outputs.items() if not np.isfinite(values).all()]
    if odd:
        raise UnusableActivations(
            f"{source} computes NaN or infinity for the images, in {', '.join(odd)}, so nothing can be compared with "
            "it: check the checkpoint with vitedge inspect and the images' preprocessing."
        )
    unusable = degeneracy(outputs)
    if unusable:
        raise CheckFailed(
            f"{source}: {unusable}, on {images}: check the checkpoint with vitedge inspect, or name images that differ."
        )


def quantize_reference(
    reference: Reference,
    recipe: ResolvedRecipe,
    form: QuantizedForm,
    *,
    features: bool,
) -> Quantization:
    """Quantizes a reference as a recipe asks for, in a form.

    Raises:
        BadRecipe: activations are to be quantized, and no images were named; or the budget cannot be measured.
        BadImages: there are no images, too many that cannot be read, or labels that do not fit the classes.
        CheckFailed: the reference is degenerate on the images, or the budget leaves nothing quantized.
    """
    asked = settings(recipe)
    stream = None
    if asked.images is not None:
        count = EXTENTS[asked.effort].images(asked.image_count)
        stream = open_images(asked.images, reference.spec, count, asked.seed)
    if asked.scheme not in form.schemes:
        raise BadRecipe(
            f"{asked.scheme} is not written for {form.title}; ask for --precision {' or '.join(form.schemes)}, "
            "or leave the profile out."
        )
    activations = asked.activations or form.activations
    job = Quantization(
        reference,
        asked,
        form,
        activations,
        stream,
        features=features,
        kernel_times=partial(_kernel_times, recipe.device),
    )
    if asked.max_drop is not None and asked.eval_images is not None:
        spec = reference.spec
        if features:
            raise BadRecipe("--max-drop counts classes, and features are none: ask for --min-sqnr instead.")
        labelled = find_labelled(asked.eval_images, classes_of(spec), seed=asked.seed, channels=spec.in_channels)
        job.count_top1 = partial(count_top1, labelled, spec)
    return _checked(run(job))


def _checked(done: Quantization) -> Quantization:
    """Returns a quantization that can be checked and that quantized something.

    Raises:
        CheckFailed: the reference is degenerate on the images, or the budget leaves nothing quantized.
    """
    degenerate = next((f"{one.output}: {one.degenerate}" for one in done.outputs if one.degenerate), "")
    if degenerate:
        raise CheckFailed(
            f"What was quantized cannot be checked on the calibration images ({done.recipe.images}): the reference is "
            f"degenerate ({degenerate}): name images that differ."
        )
    raised = done.mixed_precision.search.chosen and not done.plan.attention
    if raised and share(done.structure, done.choices, done.recipe) == 0:
        raise CheckFailed(
            f"Nothing of the model is {layer_scheme(done.recipe)} within the budget: allow less with --min-sqnr or "
            "--max-drop, or export it in floating point."
        )
    return done


def _kernel_times(device: str, program: Program) -> Mapping[str, float]:
    """Kernel to its microseconds on a device."""
    with connect(device) as session:
        return kernel_times(program, session)


def settings(recipe: ResolvedRecipe) -> QuantizationRecipe:
    """Returns the settings of quantization of a recipe.

    Raises:
        BadRecipe: activations are to be quantized, and no images were named.
    """
    asked = recipe.quantization or QuantizationRecipe(recipe.precision)
    if asked.scheme == "int8-dynamic" and recipe.batch == "dynamic":
        raise BadRecipe(
            "int8-dynamic rounds a batch by one range, so that images depend on each other: give --batch a number."
        )
    needs = asked.scheme in CALIBRATED or any(str(scheme) in CALIBRATED for scheme in asked.layers.values())
    if needs and asked.images is None:
        raise BadRecipe(
            f"{asked.scheme} finds the ranges of activations on images, and assumes none: add --images DIR, a list, "
            "an array, or the word synthetic."
        )
    if asked.images is None and asked.image_count != CALIBRATION_COUNT:
        raise BadRecipe(
            f"--image-count is of the images for calibration, and {asked.scheme} was given none: leave it out, or add "
            "--images DIR."
        )
    if asked.images is None and (asked.min_sqnr is not None or asked.max_drop is not None):
        raise BadRecipe("A budget is measured on images, and none are assumed: add --images DIR, a list or an array.")
    return asked
