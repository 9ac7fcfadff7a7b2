# SPDX-License-Identifier: Apache-2.0
"""The command ``export``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from vitedge.cli.options import (
    PRECISIONS,
    AcceptAssumptions,
    AsJson,
    Batch,
    CompareSpeed,
    Device,
    EffortOption,
    EngineBatch,
    ImageCount,
    Images,
    ImageSize,
    InputType,
    KeepFailed,
    Labels,
    Layers,
    MaxError,
    MinAgreement,
    MinSqnr,
    Model,
    Overrides,
    PadHeads,
    Profiles,
    RecipeFile,
    Rest,
    RuntimeVersions,
    Settings,
    Source,
    Weights,
)
from vitedge.cli.values import (
    parse_batch,
    parse_engine_batch,
    parse_overrides,
    parse_runtime_versions,
    parse_size,
    quantization_entries,
    tolerance_entries,
    with_model,
)
from vitedge.files.plain import from_dict
from vitedge.progress import stage
from vitedge.quantization.file.header import SUFFIX, fixed_entries
from vitedge.recipe import SCHEMES, ExportRecipe, Precision, named_setting, read_entries


def export(
    source: Source,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="BUNDLE", help="The folder to write.")],
    formats: Annotated[
        list[str] | None, typer.Option("--format", metavar="onnx|coreml|tensorrt", help="Repeat for several.")
    ] = None,
    profiles: Profiles = None,
    precision: Annotated[str | None, typer.Option(metavar=PRECISIONS, help="fp32 if not given.")] = None,
    rest: Rest = None,
    image_size: ImageSize = None,
    batch: Batch = None,
    engine_batch: EngineBatch = None,
    opset: Annotated[int | None, typer.Option(help="ONNX operator set; 18, or the profile's.")] = None,
    coreml_target: Annotated[
        str | None, typer.Option(metavar="iOS16|…", help="Deployment target; iOS17, or the profile's.")
    ] = None,
    runtime_versions: RuntimeVersions = None,
    input_type: InputType = None,
    images: Images = None,
    image_count: ImageCount = None,
    layers: Layers = None,
    settings: Settings = None,
    effort: EffortOption = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the synthetic images, or of the choice from a folder.")
    ] = None,
    weights: Weights = None,
    overrides: Overrides = None,
    labels: Labels = None,
    model: Model = None,
    max_error: MaxError = None,
    min_sqnr: MinSqnr = None,
    min_agreement: MinAgreement = None,
    recipe: RecipeFile = None,
    device: Device = None,
    *,
    compare_speed: CompareSpeed = False,
    keep_failed: KeepFailed = False,
    pad_heads: PadHeads = False,
    accept_assumptions: AcceptAssumptions = False,
    features: Annotated[bool, typer.Option("--features", help="Tokens and pooled features, not logits.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the bundle that is there.")] = False,
    json: AsJson = False,
) -> None:
    """Write a bundle of artifacts, compared with the checkpoint."""
    given = {
        "formats": tuple(formats) if formats else None,
        "profiles": tuple(profiles) if profiles else None,
        "precision": None if precision is None else named_setting(Precision, "precision", precision),
        "rest": rest,
        "image_size": parse_size(image_size),
        "batch": parse_batch(batch),
        "engine_batch": parse_engine_batch(engine_batch),
        "pad_heads": pad_heads or None,
        "opset": opset,
        "coreml_target": coreml_target,
        "runtime_versions": parse_runtime_versions(runtime_versions),
        "input": input_type,
        "images": images,
        "image_count": image_count,
        "seed": seed,
        "weights": weights,
        "device": device,
        "overrides": parse_overrides(with_model(overrides, model)) or None,
        "labels": labels,
        "accept_assumptions": accept_assumptions or None,
        "features": features or None,
        "tolerance": tolerance_entries(max_error, min_sqnr, min_agreement),
    }
    calibration = {"images": images, "seed": seed, "effort": effort}
    asked = _asked(source, given, recipe, calibration, settings, layers)
    from vitedge.render.export import render

    with stage("starting", whole=True):
        from vitedge.verbs.export import export as run

    result = run(source, output, asked, force=force, compare_speed=compare_speed, keep_failed=keep_failed)
    render(result, as_json=json)
    if result.pending:
        raise typer.Exit(3)


def _asked(
    source: str,
    given: Mapping[str, Any],
    recipe: Path | None,
    calibration: Mapping[str, str | int | None],
    settings: list[str] | None,
    layers: list[str] | None,
) -> ExportRecipe:
    """Returns the recipe of a file with what was typed, which goes before; None was not typed."""
    entries = read_entries(recipe) if recipe else {}
    entries.update({name: value for name, value in given.items() if value is not None})
    if source.endswith(SUFFIX):
        typed = {**entries, "quantization": entries.get("quantization") or settings or layers or calibration["effort"]}
        fixed_entries(source, typed)  # refuses at once what the file fixes
    elif entries.get("precision") in SCHEMES or settings or layers or calibration["effort"]:
        found = entries.get("quantization")
        entries["quantization"] = quantization_entries(entries.get("precision"), found, calibration, settings, layers)
    return from_dict(ExportRecipe, entries)
