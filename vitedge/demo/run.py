# SPDX-License-Identifier: Apache-2.0
"""The demo: exports, prunes, quantizes, verifies, evaluates and measures the embedded models."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vitedge import registry
from vitedge.checkpoints.read import read
from vitedge.demo.assets import IMAGES, MODELS, DemoModel, images
from vitedge.demo.records import DemoPruning, DemoResult, DemoRow
from vitedge.devices.session import connect
from vitedge.export.formats import FORMATS
from vitedge.export.tensorrt.building import BUILDERS
from vitedge.images.image_set import ImageSet, load
from vitedge.latency.interleave import measure_in_turn
from vitedge.latency.model import MeasuredModel
from vitedge.latency.sampling import Rule
from vitedge.models.reference import load_reference
from vitedge.parity.artifact import ReferenceOutputs, outputs_of
from vitedge.parity.metrics import default_tolerance
from vitedge.parity.reference import gather
from vitedge.progress import Progress, counted, reporting, stage
from vitedge.pruning.recipe import PruningRecipe
from vitedge.recipe import ExportRecipe, QuantizationRecipe
from vitedge.records import Artifact, OutputParity
from vitedge.registry import LOCAL
from vitedge.verbs.export import export
from vitedge.verbs.measured import REFERENCE
from vitedge.verbs.prune import prune
from vitedge.verbs.records import ExportResult

SHOWN = ("onnx", "coreml")
_BUILDER = "tensorrt-rtx"
SMALL = ("onnx",)
"""Formats of the other bundles of each model, which are quantized, pruned, or both."""
MACS = 0.7
"""Fraction of the multiply-accumulates that pruning keeps."""
_PARITY_IMAGES = 64
_CALIBRATION_IMAGES = 64
"""Test images, without their labels, that quantization is calibrated on, and that pruning ranks and refits on."""
_RULE = Rule(warmup_s=0.3, warmup_limit_s=3.0, seconds=2.0, rounds=10)
"""Shorter than a result to be published: three models have to be through in two minutes."""


@dataclass(frozen=True)
class _Bundle:
    """One export of a model."""

    folder: Path
    result: ExportResult
    pruning: DemoPruning | None = None


def run(output: Path, progress: Progress | None = None) -> DemoResult:
    """Exports, verifies and measures every embedded model.

    Args:
        output: folder for one bundle a model; bundles of an earlier demo are replaced.
        progress: as `vitedge.progress.reporting` takes it: who is told how far it is; None tells nobody.

    Raises:
        VitedgeError: as `vitedge.verbs.export.export`.
    """
    start = time.perf_counter()
    rows: list[DemoRow] = []
    with reporting(progress), stage("demo", whole=True):
        for model in counted(MODELS):
            with stage(model.name):
                rows.extend(_show(model, output / model.name.lower()))
        with stage(MODELS[0].name):
            engine = _engine(MODELS[0], output / f"{MODELS[0].name.lower()}-rtx")
    return DemoResult(str(output), len(images()[1]), tuple(rows), time.perf_counter() - start, engine)


def _engine(model: DemoModel, folder: Path) -> str:
    """Builds an engine of a model; returns what its kernels compute, or nothing where TensorRT for RTX is missing."""
    if registry.missing(BUILDERS, _BUILDER) or not registry.works_here(BUILDERS, _BUILDER):
        return ""
    quantization = QuantizationRecipe(images=str(IMAGES), image_count=_CALIBRATION_IMAGES)
    recipe = ExportRecipe(
        formats=("tensorrt",),
        profiles=("rtx",),
        images=str(IMAGES),
        image_count=_PARITY_IMAGES,
        overrides=dict(model.overrides),
        quantization=quantization,
    )
    made = export(str(model.path), folder, recipe, force=True)
    (engine,) = (one for one in made.manifest.artifacts if one.engine is not None)
    return f"{model.name}: {folder.name}/{engine.path}: {'; '.join(engine.notes)}; built, not run"


def _show(model: DemoModel, folder: Path) -> list[DemoRow]:
    bundles = _bundles(model, folder)
    with stage("classifying the test images"):
        reference_outputs, labels = _test_split(model)
        expected = _top1(reference_outputs.data.outputs["logits"], labels)
    times = _latencies(model, bundles)
    return [
        DemoRow(
            model=model.name,
            format=artifact.format,
            precision=artifact.precision,
            size=artifact.size,
            parity=_parity(bundle.result, artifact),
            reference_top1=expected,
            top1=_artifact_top1(bundle.folder, artifact, reference_outputs, labels),
            reference_ms=times["PyTorch"],
            median_ms=times.get(str(bundle.folder / artifact.path)),
            speed=bundle.result.manifest.speed,
            pruning=bundle.pruning,
        )
        for bundle in bundles
        for artifact in bundle.result.manifest.artifacts
    ]


def _bundles(model: DemoModel, folder: Path) -> list[_Bundle]:
    """Exports a model and what pruning leaves of it, each in float and quantized."""

    def exported(source: Path, folder: Path, recipe: ExportRecipe, *, timed: bool = False) -> ExportResult:
        return export(str(source), folder, recipe, force=True, compare_speed=timed)

    whole = ExportRecipe(formats=SHOWN, images=str(IMAGES), image_count=_PARITY_IMAGES, overrides=dict(model.overrides))
    quantization = QuantizationRecipe(images=str(IMAGES), image_count=_CALIBRATION_IMAGES)
    int8 = replace(whole, formats=SMALL, precision=quantization.scheme, quantization=quantization)
    small, pruned, both = (folder.with_name(f"{folder.name}-{what}") for what in ("int8", "pruned", "pruned-int8"))
    bundles = [
        _Bundle(folder, exported(model.path, folder, whole)),
        _Bundle(small, exported(model.path, small, int8, timed=True)),
    ]
    file = pruned.with_suffix(".safetensors")
    pruning = _prune(model, file)
    # What the user said of the checkpoint is in the pruned file.
    float_recipe, int8 = (replace(recipe, formats=SMALL, overrides={}) for recipe in (whole, int8))
    return [
        *bundles,
        _Bundle(pruned, exported(file, pruned, float_recipe), pruning),
        _Bundle(both, exported(file, both, int8), pruning),
    ]


def _prune(model: DemoModel, file: Path) -> DemoPruning:
    recipe = PruningRecipe(
        macs=MACS, images=str(IMAGES), image_count=_CALIBRATION_IMAGES, overrides=dict(model.overrides)
    )
    record = prune(str(model.path), file, recipe, force=True).record
    return DemoPruning(record.gmacs[1] / record.gmacs[0], record.distance.sqnr_db, record.images)


def _parity(result: ExportResult, artifact: Artifact) -> OutputParity:
    return next(report.outputs[0] for report in result.manifest.parity if report.artifact == artifact.path)


def _test_split(model: DemoModel) -> tuple[ReferenceOutputs, tuple[int, ...]]:
    """Returns the reference outputs for every test image, and the images' classes."""
    reference = load_reference(read(str(model.path), overrides=model.overrides))
    split: ImageSet = load(IMAGES, reference.spec, len(images()[1]))
    tolerance = default_tolerance("fp32", reference.spec.family)
    return gather(reference, split, tolerance, features=False), split.labels


def _artifact_top1(
    bundle: Path, artifact: Artifact, reference_outputs: ReferenceOutputs, labels: tuple[int, ...]
) -> float:
    name = FORMATS[artifact.format].runtimes[0]
    with registry.load(registry.RUNTIMES, name).Runtime(bundle / artifact.path) as runtime:
        return _top1(outputs_of(runtime, artifact, reference_outputs)["logits"], labels)


def _top1(logits: npt.NDArray[np.generic], labels: tuple[int, ...]) -> float:
    return float(np.mean(logits.argmax(axis=1) == np.asarray(labels)))


def _latencies(model: DemoModel, bundles: Sequence[_Bundle]) -> Mapping[str, float]:
    """Returns median milliseconds of PyTorch and of every artifact that runs here, measured in turn."""
    options = {"overrides": dict(model.overrides)}
    models = [MeasuredModel("PyTorch", "torch", str(model.path), factory=REFERENCE, options=options)]
    with connect(LOCAL) as session:
        for bundle in bundles:
            for artifact in bundle.result.manifest.artifacts:
                name, path = FORMATS[artifact.format].runtimes[-1], str(bundle.folder / artifact.path)
                if not session.refusal(name):
                    models.append(MeasuredModel(path, name, path))
        report = measure_in_turn(models, session, _RULE)
    return {found.subject: found.quantiles.median for found in report.reports}
