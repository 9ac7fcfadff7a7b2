# SPDX-License-Identifier: Apache-2.0
"""The command ``prune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vitedge.cli.options import AcceptAssumptions, AsJson, ImageSize, Model, Overrides, Source, Weights
from vitedge.cli.values import parse_merge, parse_overrides, parse_size, parse_sparsity, with_model


def prune(
    source: Source,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.safetensors", help="The file to write.")],
    images: Annotated[
        str | None,
        typer.Option(metavar="DIR|LIST|ARRAY|synthetic", help="Images to rank and refit on; none is assumed."),
    ] = None,
    image_count: Annotated[int | None, typer.Option(min=2, help="How many of them; 256 if not given.")] = None,
    heads: Annotated[float | None, typer.Option(metavar="F", help="Fraction of the heads that is kept.")] = None,
    mlp: Annotated[float | None, typer.Option(metavar="F", help="Fraction of the hidden units that is kept.")] = None,
    macs: Annotated[
        float | None, typer.Option(metavar="F", help="Fraction of the multiply-accumulates; widths are chosen.")
    ] = None,
    latency: Annotated[
        float | None, typer.Option(metavar="F", help="Fraction of the time on this machine; widths are chosen.")
    ] = None,
    sparsity: Annotated[
        str | None, typer.Option(metavar="2:4|S", help="2:4, or the fraction of the weights that becomes zero.")
    ] = None,
    merge: Annotated[
        str | None, typer.Option(metavar="R|R,R,…", help="Tokens that each block merges, or one number a block.")
    ] = None,
    criterion: Annotated[
        str | None, typer.Option(metavar="activation|taylor|magnitude", help="How heads and units are ranked.")
    ] = None,
    selection: Annotated[
        str | None, typer.Option(metavar="sparsegpt|wanda|magnitude", help="How the zeros of --sparsity are selected.")
    ] = None,
    multiple: Annotated[int | None, typer.Option(help="Hidden widths stay multiples of it; 8 if not given.")] = None,
    runtime: Annotated[
        str | None, typer.Option(metavar="NAME", help="Runtime of --latency; onnxruntime if not given.")
    ] = None,
    recover: Annotated[
        str | None, typer.Option(metavar="DIR|LIST|ARRAY", help="Images to learn from the dense model on.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the images of --recover.")] = None,
    max_drop: Annotated[
        float | None, typer.Option(metavar="POINTS", help="Budget: top-1 that may be lost on --eval.")
    ] = None,
    labelled: Annotated[
        str | None, typer.Option("--eval", metavar="LABELLED_DIR", help="Images that top-1 is counted on.")
    ] = None,
    min_sqnr: Annotated[
        float | None, typer.Option(metavar="DB", help="Budget: centred SQNR against the dense model.")
    ] = None,
    image_size: ImageSize = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the images.")] = None,
    weights: Weights = None,
    overrides: Overrides = None,
    model: Model = None,
    *,
    repair: Annotated[
        bool, typer.Option("--repair/--no-repair", help="Refit the layers behind what is removed.")
    ] = True,
    parts: Annotated[bool, typer.Option("--parts", help="Show every part.")] = False,
    accept_assumptions: AcceptAssumptions = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file that is there.")] = False,
    json: AsJson = False,
) -> None:
    """Make a checkpoint smaller: fewer heads and units, 2:4 sparse weights, merged tokens."""
    given: dict[str, Any] = {
        "heads": heads,
        "mlp": mlp,
        "macs": macs,
        "latency": latency,
        "sparsity": parse_sparsity(sparsity),
        "merge": parse_merge(merge),
        "criterion": criterion,
        "selection": selection,
        "multiple": multiple,
        "runtime": runtime,
        "images": images,
        "image_count": image_count,
        "seed": seed,
        "image_size": parse_size(image_size),
        "recover": recover,
        "epochs": epochs,
        "weights": weights,
        "overrides": parse_overrides(with_model(overrides, model)) or None,
        "max_drop": max_drop,
        "eval_images": labelled,
        "min_sqnr": min_sqnr,
    }
    from vitedge.pruning.recipe import PruningRecipe
    from vitedge.render.prune import render
    from vitedge.render.screen import progress
    from vitedge.verbs.prune import prune as run

    said = {name: value for name, value in given.items() if value is not None}
    recipe = PruningRecipe(**said, repair=repair, accept_assumptions=accept_assumptions)
    result = run(source, output, recipe, force=force, progress=progress)
    render(result, parts=parts, as_json=json)
    if result.failed:
        raise typer.Exit(4)
