# SPDX-License-Identifier: Apache-2.0
"""The command ``validate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitedge.cli.options import (
    AsJson,
    Device,
    ImageCount,
    Images,
    MaxError,
    MinAgreement,
    MinSqnr,
    Model,
    Overrides,
    Weights,
)
from vitedge.cli.values import parse_overrides, refuse_idle, tolerance_entries, with_model
from vitedge.errors import BundleDamaged
from vitedge.files.plain import from_dict
from vitedge.recipe import IMAGE_COUNT
from vitedge.records import Tolerance
from vitedge.registry import LOCAL


def validate(
    subject: Annotated[str, typer.Argument(metavar="BUNDLE|ARTIFACT", help="A bundle, an .onnx or an .mlpackage.")],
    against: Annotated[
        str | None, typer.Option(metavar="CHECKPOINT", help="Compare with this checkpoint; an artifact needs it.")
    ] = None,
    images: Images = None,
    image_count: ImageCount = None,
    weights: Weights = None,
    overrides: Overrides = None,
    model: Model = None,
    max_error: MaxError = None,
    min_sqnr: MinSqnr = None,
    min_agreement: MinAgreement = None,
    compute: Annotated[
        str, typer.Option(metavar="declared|fp32", help="Core ML: fp32 shows the conversion without its rounding.")
    ] = "declared",
    device: Device = None,
    *,
    layers: Annotated[
        bool, typer.Option("--layers", help="Compare layer by layer with --against; list an engine's kernels.")
    ] = False,
    overflow: Annotated[
        bool, typer.Option("--overflow", help="Core ML: check the values of all operations against float16's range.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Check a bundle, or compare an artifact with a checkpoint."""
    from vitedge.render.validate import render, render_damage
    from vitedge.verbs.validate import ReferenceOptions, ValidationOptions
    from vitedge.verbs.validate import validate as run

    tolerance = tolerance_entries(max_error, min_sqnr, min_agreement)
    if against is None:
        comparing = {
            "--images": images,
            "--image-count": image_count,
            "--weights": weights,
            "--set": overrides,
            "--model": model,
            "--max-error": max_error,
            "--min-sqnr": min_sqnr,
            "--min-agreement": min_agreement,
        }
        refuse_idle(comparing, "for a comparison with a checkpoint", "add --against CHECKPOINT, or leave it out")
    reference = (
        None
        if against is None
        else ReferenceOptions(
            against,
            images or "synthetic",
            image_count or IMAGE_COUNT,
            layers=layers,
            weights=weights,
            tolerance=None if tolerance is None else from_dict(Tolerance, tolerance),
            overrides=parse_overrides(with_model(overrides, model)),
        )
    )
    try:
        result = run(Path(subject), reference, ValidationOptions(compute, overflow, device or LOCAL, kernels=layers))
    except BundleDamaged as damage:
        if json:
            render_damage(subject, str(damage))
        raise
    render(result, kernels=layers, as_json=json)
    if not result.passed:
        raise typer.Exit(4)
