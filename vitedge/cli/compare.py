# SPDX-License-Identifier: Apache-2.0
"""The command ``compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vitedge.cli.options import (
    PRECISIONS,
    AcceptAssumptions,
    AsJson,
    Batch,
    Device,
    ImageCount,
    ImageSize,
    InputType,
    Labels,
    Layers,
    MinAgreement,
    MinSqnr,
    Model,
    Overrides,
    Profiles,
    Settings,
    Source,
    Weights,
)
from vitedge.cli.values import (
    parse_batch,
    parse_overrides,
    parse_size,
    quantization_entries,
    tolerance_entries,
    with_model,
)
from vitedge.errors import BadRecipe
from vitedge.files.plain import from_dict
from vitedge.progress import stage
from vitedge.recipe import SCHEMES, ExportRecipe, Precision, named_setting

_Images = Annotated[
    str | None,
    typer.Option(metavar="DIR|synthetic", help="Images for parity, and for calibration: without them nothing is int8."),
]
_EvalImages = Annotated[
    str | None,
    typer.Option("--eval", metavar="DIR|FILE.csv|FILE.npz", help="Labelled images that top-1 is counted on."),
]
_MaxDrop = Annotated[
    float | None, typer.Option(metavar="POINTS", help="Largest loss of top-1 against the checkpoint, on --eval.")
]
_Formats = Annotated[
    list[str] | None,
    typer.Option("--format", metavar="onnx|coreml|tensorrt", help="The profile's, or onnx. Repeat for several."),
]
_Precisions = Annotated[
    list[str] | None,
    typer.Option("--precision", metavar=PRECISIONS, help="What the profile offers, or fp32, fp16 and int8. Repeat."),
]


def compare(
    source: Source,
    images: _Images = None,
    eval_images: _EvalImages = None,
    max_drop: _MaxDrop = None,
    formats: _Formats = None,
    precisions: _Precisions = None,
    profiles: Profiles = None,
    device: Device = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads; all cores if not given.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="BUNDLE", help="Keep the bundle that is recommended."),
    ] = None,
    image_size: ImageSize = None,
    batch: Batch = None,
    input_type: InputType = None,
    image_count: ImageCount = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the choice of images.")] = None,
    layers: Layers = None,
    settings: Settings = None,
    weights: Weights = None,
    labels: Labels = None,
    overrides: Overrides = None,
    model: Model = None,
    min_sqnr: MinSqnr = None,
    min_agreement: MinAgreement = None,
    *,
    accept_assumptions: AcceptAssumptions = False,
    keep_all: Annotated[
        bool, typer.Option("--keep-all", help="Keep every bundle, in a folder each below that of -o.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    json: AsJson = False,
) -> None:
    """Make fp32, fp16 and int8, time them, and say which to ship."""
    if output is None and (keep_all or force):
        raise BadRecipe(f"{'--keep-all' if keep_all else '--force'} is about what is kept: add -o BUNDLE.")
    given: dict[str, Any] = {
        "formats": tuple(formats) if formats else None,
        "profiles": tuple(profiles) if profiles else None,
        "image_size": parse_size(image_size),
        "batch": parse_batch(batch),
        "input": input_type,
        "images": images,
        "image_count": image_count,
        "seed": seed,
        "weights": weights,
        "labels": labels,
        "device": device,
        "overrides": parse_overrides(with_model(overrides, model)) or None,
        "accept_assumptions": accept_assumptions or None,
        "tolerance": tolerance_entries(None, min_sqnr, min_agreement),
    }
    if settings or layers:
        calibration = {"images": images, "seed": seed}
        given["quantization"] = quantization_entries(SCHEMES[0], None, calibration, settings, layers)
    recipe = from_dict(ExportRecipe, {name: value for name, value in given.items() if value is not None})
    chosen = tuple(named_setting(Precision, "precision", name) for name in precisions or ())
    from vitedge.render.compare import render

    with stage("starting", whole=True):
        from vitedge.verbs.candidates import CompareOptions
        from vitedge.verbs.compare import compare as run
        from vitedge.verbs.keeping import Keeping

    options = CompareOptions(recipe, chosen, eval_images, max_drop, threads)
    keeping = None if output is None else Keeping(output, force, keep_all)
    result = run(source, options, keeping)
    render(result, as_json=json)
    if result.failed:
        raise typer.Exit(5)
    if not result.passed:
        raise typer.Exit(4)
