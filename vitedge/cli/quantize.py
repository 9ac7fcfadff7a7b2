# SPDX-License-Identifier: Apache-2.0
"""The command ``quantize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vitedge.cli.options import (
    AcceptAssumptions,
    AsJson,
    Batch,
    Device,
    EffortOption,
    ImageSize,
    InputType,
    Labels,
    Layers,
    Model,
    Overrides,
    Profiles,
    RecipeFile,
    Settings,
    Source,
    Weights,
)
from vitedge.cli.values import parse_batch, parse_overrides, parse_size, quantization_entries, with_model
from vitedge.files.plain import from_dict
from vitedge.progress import stage
from vitedge.recipe import CALIBRATION_COUNT, SCHEMES, ExportRecipe, read_entries


def quantize(
    source: Source,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.pt2", help="The file to write.")],
    images: Annotated[
        str | None, typer.Option(metavar="DIR|LIST|ARRAY|synthetic", help="Images for calibration; none is assumed.")
    ] = None,
    image_count: Annotated[
        int | None, typer.Option(min=2, help=f"How many of them; {CALIBRATION_COUNT} if not given.")
    ] = None,
    scheme: Annotated[str | None, typer.Option(metavar="|".join(SCHEMES), help="int8 if not given.")] = None,
    profiles: Profiles = None,
    layers: Layers = None,
    settings: Settings = None,
    effort: EffortOption = None,
    max_drop: Annotated[
        float | None, typer.Option(metavar="POINTS", help="Budget: top-1 that may be lost on --eval.")
    ] = None,
    labelled: Annotated[
        str | None, typer.Option("--eval", metavar="LABELLED_DIR", help="Images of the budget.")
    ] = None,
    min_sqnr: Annotated[
        float | None, typer.Option(metavar="DB", help="Budget: centred SQNR on the calibration images.")
    ] = None,
    image_size: ImageSize = None,
    batch: Batch = None,
    input_type: InputType = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the images.")] = None,
    weights: Weights = None,
    overrides: Overrides = None,
    labels: Labels = None,
    model: Model = None,
    recipe: RecipeFile = None,
    device: Device = None,
    *,
    diagnose: Annotated[bool, typer.Option("--layers", help="Show every layer and every attention.")] = False,
    accept_assumptions: AcceptAssumptions = False,
    features: Annotated[bool, typer.Option("--features", help="Tokens and pooled features, not logits.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file that is there.")] = False,
    json: AsJson = False,
) -> None:
    """Quantize a checkpoint into one program for every target."""
    entries = read_entries(recipe) if recipe else {}
    found = entries.pop("quantization", None)
    budget = {"max_drop": max_drop, "eval_images": labelled, "min_sqnr": min_sqnr}
    given: dict[str, Any] = {
        "precision": scheme or entries.get("precision") or "int8",
        "profiles": tuple(profiles) if profiles else None,
        "image_size": parse_size(image_size),
        "batch": parse_batch(batch),
        "input": input_type,
        "seed": seed,
        "device": device,
        "weights": weights,
        "overrides": parse_overrides(with_model(overrides, model)) or None,
        "labels": labels,
        "accept_assumptions": accept_assumptions or None,
        "features": features or None,
    }
    entries.update({name: value for name, value in given.items() if value is not None})
    calibration = {"images": images, "image_count": image_count, "seed": seed, "effort": effort, **budget}
    entries["quantization"] = quantization_entries(entries["precision"], found, calibration, settings, layers)
    asked = from_dict(ExportRecipe, entries)
    from vitedge.render.quantize import render

    with stage("starting", whole=True):
        from vitedge.verbs.quantize import quantize as run

    result = run(source, output, asked, force=force)
    render(result, profiles=result.profiles, layers=diagnose, as_json=json)
    if result.failed:
        raise typer.Exit(4)
