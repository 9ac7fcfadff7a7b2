# SPDX-License-Identifier: Apache-2.0
"""Lowering to Core ML: an ML Program in an ``.mlpackage``, made and checked on Linux or macOS."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from vitedge.errors import BadRecipe
from vitedge.export.coreml.convert import (
    PROBABILITIES,
    Settings,
    deployment_target,
    is_image,
    to_mil,
    to_model,
    values_of,
)
from vitedge.export.coreml.describe import LABEL, LABEL_PROBABILITIES, describe, oldest_systems
from vitedge.export.coreml.graph import to_coreml_graph
from vitedge.export.coreml.package import write_package
from vitedge.export.coreml.quantized import add_conversions, check_forms
from vitedge.export.coreml.quiet import load_coremltools, quiet
from vitedge.export.coreml.sparse import store_sparse
from vitedge.files.digest import hash_file, hash_listing
from vitedge.mlprogram.package import MANIFEST, MODEL, WEIGHTS
from vitedge.program.program import Program
from vitedge.recipe import ResolvedRecipe
from vitedge.records import Artifact, TensorSpec


def check_settings(recipe: ResolvedRecipe) -> None:
    """Refuses a deployment target that there is none of, before any work is done.

    Raises:
        BadRecipe: with those that can be had.
        MissingBackend: coremltools is not installed or does not run here.
    """
    deployment_target(load_coremltools(), recipe.coreml_target)


def lower(program: Program, recipe: ResolvedRecipe, out: Path, float32_modules: tuple[str, ...]) -> Artifact:
    """Writes the program as an ``.mlpackage``.

    Args:
        program: captured at a fixed batch; quantized or not.
        recipe: its precision, input, Core ML target and features decide what is written.
        out: folder to make, ``NAME.mlpackage``.
        float32_modules: modules of the reference that stay in fp32 in an fp16 package.

    Raises:
        BadRecipe: an unknown deployment target, labels that do not fit, a batch that is not fixed, or integers that the
            target has no form for.
        MissingBackend: coremltools is not installed or does not run here.
        CheckFailed: a tensor of rank above 5.
    """
    ct = load_coremltools()
    target = deployment_target(ct, recipe.coreml_target)
    image = program.inputs[0]
    if not all(isinstance(edge, int) for edge in image.shape):
        raise BadRecipe("A Core ML package has a fixed batch; export it with --batch 1.")
    labels, notes = _class_labels(program)
    check_forms(ct, program, target)
    graph = to_coreml_graph(program, probabilities=bool(labels))
    float32_nodes = graph.normalization | graph.under(float32_modules)
    settings = Settings(target, recipe.is_half, float32_nodes, is_image(image), labels)
    outputs = tuple(output.name for output in program.outputs) + ((PROBABILITIES,) if labels else ())
    with quiet():
        add_conversions(ct)
        lowered = to_mil(ct, graph, image, outputs, settings)
        blocks = values_of(lowered, graph, graph.blocks)
        sparse = store_sparse(ct, lowered, target)
        model = to_model(ct, lowered, settings)
    message = model.get_spec()
    describe(message, program, recipe, graph.paths(), blocks, sparse)
    write_package(out, message, Path(model.weights_dir) / "weight.bin")
    if sparse:
        notes = (*notes, f"{sparse} weights are stored sparse: the file is smaller, and no faster for it.")
    if image.dtype == "uint8" and not settings.image:
        notes = (*notes, "The input is a multi-array of 0 to 255: Core ML takes one RGB or grey image at a time.")
    return _artifact(program, recipe, out, target=target.name, blocks=blocks, notes=notes)


def _class_labels(program: Program) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the labels of the classifier, unique, and notes on them; none where the package is no classifier."""
    spec = program.spec
    if not spec.labels or program.outputs[0].name != "logits":
        return (), ()
    if len(spec.labels) != spec.classes:
        raise BadRecipe(f"There are {len(spec.labels)} labels for {spec.classes} classes; give one for each class.")
    if program.outputs[0].shape[0] != 1:
        return (), ("Without class labels: a Core ML classifier takes one image at a time.",)
    counts = Counter(spec.labels)
    unique = tuple(f"{label} ({index})" if counts[label] > 1 else label for index, label in enumerate(spec.labels))
    notes = [f"Besides logits the package returns {LABEL} and {LABEL_PROBABILITIES}."]
    if len(counts) < len(unique):
        # The probabilities are a dictionary by label: of two equal ones it would keep one.
        notes.append("Labels that several classes share carry the number of the class.")
    return unique, tuple(notes)


def _artifact(program: Program, recipe: ResolvedRecipe, out: Path, **found: Any) -> Artifact:
    files = {f"{out.name}/{name}": hash_file(out / name) for name in sorted((MANIFEST, MODEL, WEIGHTS))}
    image = program.inputs[0]
    dtype, pixels = ("uint8", False) if is_image(image) else ("float32", image.dtype == "uint8")
    return Artifact(
        format="coreml",
        path=out.name,
        sha256=hash_listing(files),
        size=sum((out.parent / name).stat().st_size for name in files),
        precision=recipe.precision,
        inputs=(TensorSpec(image.name, image.shape, dtype, pixels),),
        outputs=program.outputs,
        files=files,
        oldest_runtimes=oldest_systems(found["target"]),
        **found,
    )
