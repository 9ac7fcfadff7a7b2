# SPDX-License-Identifier: Apache-2.0
"""The demo: exports, verifies, evaluates and measures the embedded models."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vitedge import registry
from vitedge.checkpoints.read import read
from vitedge.demo.assets import IMAGES, MODELS, DemoModel, images
from vitedge.demo.records import DemoResult, DemoRow
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
from vitedge.recipe import ExportRecipe, QuantizationRecipe
from vitedge.records import Artifact, OutputParity
from vitedge.verbs.bench import REFERENCE
from vitedge.verbs.export import export
from vitedge.verbs.records import ExportResult

SHOWN = ("onnx", "coreml")
_BUILDER = "tensorrt-rtx"
QUANTIZED = ("onnx",)
"""Formats of the second bundle of each model, which is quantized."""
_PARITY_IMAGES = 64
_CALIBRATION_IMAGES = 64
_RULE = Rule(warmup_s=0.3, warmup_limit_s=3.0, seconds=2.0, rounds=10)
"""Shorter than a result to be published: three models have to be through in a minute."""


def run(output: Path, progress: Callable[[str], None] = lambda _text: None) -> DemoResult:
    """Exports, verifies and measures every embedded model.

    Args:
        output: folder for one bundle a model; bundles of an earlier demo are replaced.
        progress: called with one line a step.

    Raises:
        VitedgeError: as `vitedge.verbs.export.export`.
    """
    start = time.perf_counter()
    rows: list[DemoRow] = []
    for model in MODELS:
        rows.extend(_show(model, output / model.name.lower(), progress))
    engine = _engine(MODELS[0], output / f"{MODELS[0].name.lower()}-rtx", progress)
    return DemoResult(str(output), len(images()[1]), tuple(rows), time.perf_counter() - start, engine)


def _engine(model: DemoModel, folder: Path, progress: Callable[[str], None]) -> str:
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
    made = export(str(model.path), folder, recipe, force=True, progress=lambda text: progress(f"{model.name}: {text}"))
    (engine,) = (one for one in made.manifest.artifacts if one.engine is not None)
    return f"{model.name}: {folder.name}/{engine.path}: {'; '.join(engine.notes)}; built, not run"


def _show(model: DemoModel, bundle: Path, progress: Callable[[str], None]) -> list[DemoRow]:
    parts = [(folder, _export(model, folder, recipe, progress)) for folder, recipe in _recipes(model, bundle)]
    progress(f"{model.name}: classifying the test images …")
    reference_outputs, labels = _test_split(model)
    expected = _top1(reference_outputs.data.outputs["logits"], labels)
    progress(f"{model.name}: measuring latency …")
    times = _latencies(model, parts)
    return [
        DemoRow(
            model=model.name,
            format=artifact.format,
            precision=artifact.precision,
            size=artifact.size,
            parity=_parity(result, artifact),
            reference_top1=expected,
            top1=_artifact_top1(folder, artifact, reference_outputs, labels),
            reference_ms=times["PyTorch"],
            median_ms=times.get(str(folder / artifact.path)),
            speed=result.manifest.speed,
        )
        for folder, result in parts
        for artifact in result.manifest.artifacts
    ]


def _export(model: DemoModel, folder: Path, recipe: ExportRecipe, progress: Callable[[str], None]) -> ExportResult:
    return export(
        str(model.path),
        folder,
        recipe,
        force=True,
        compare_speed=recipe.quantization is not None,
        progress=lambda text: progress(f"{model.name}: {text}"),
    )


def _recipes(model: DemoModel, bundle: Path) -> Iterator[tuple[Path, ExportRecipe]]:
    """Yields folder and recipe of each export: the float checkpoint, and the quantized one."""
    common = ExportRecipe(images=str(IMAGES), image_count=_PARITY_IMAGES, overrides=dict(model.overrides))
    yield bundle, replace(common, formats=SHOWN)
    quantization = QuantizationRecipe(images=str(IMAGES), image_count=_CALIBRATION_IMAGES)
    yield (
        bundle.with_name(f"{bundle.name}-int8"),
        replace(common, formats=QUANTIZED, precision=quantization.scheme, quantization=quantization),
    )


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


def _latencies(model: DemoModel, parts: Sequence[tuple[Path, ExportResult]]) -> Mapping[str, float]:
    """Returns median milliseconds of PyTorch and of every artifact that runs here, measured in turn."""
    options = {"overrides": dict(model.overrides)}
    models = [MeasuredModel("PyTorch", "torch", str(model.path), factory=REFERENCE, options=options)]
    with connect("local") as session:
        for folder, result in parts:
            for artifact in result.manifest.artifacts:
                name, path = FORMATS[artifact.format].runtimes[-1], str(folder / artifact.path)
                if not session.refusal(name):
                    models.append(MeasuredModel(path, name, path))
        report = measure_in_turn(models, session, _RULE)
    return {found.subject: found.quantiles.median for found in report.reports}
