# SPDX-License-Identifier: Apache-2.0
"""The command ``prune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vitedge.cli.options import AcceptAssumptions, AsJson, ImageSize, Labels, Model, Overrides, Source, Weights
from vitedge.cli.values import parse_merge, parse_overrides, parse_size, parse_sparsity, with_labels, with_model
from vitedge.errors import BadRecipe
from vitedge.progress import stage

Output = Annotated[Path, typer.Option("--output", "-o", metavar="FILE.safetensors", help="The file to write.")]
Images = Annotated[
    str | None, typer.Option(metavar="DIR|LIST|ARRAY|synthetic", help="Images to rank and refit on; none is assumed.")
]
ImageCount = Annotated[int | None, typer.Option(min=2, help="How many of them; 256 if not given.")]
Heads = Annotated[float | None, typer.Option(metavar="F", help="Fraction of the heads that is kept.")]
Mlp = Annotated[float | None, typer.Option(metavar="F", help="Fraction of the hidden units that is kept.")]
Macs = Annotated[
    float | None, typer.Option(metavar="F", help="Fraction of the multiply-accumulates; widths are chosen.")
]
Latency = Annotated[
    float | None, typer.Option(metavar="F", help="Fraction of the time on this machine; widths are chosen.")
]
Sparsity = Annotated[
    str | None, typer.Option(metavar="2:4|S", help="2:4, or the fraction of the weights that becomes zero.")
]
Merge = Annotated[
    str | None, typer.Option(metavar="R|R,R,…", help="Tokens that each block merges, or one number a block.")
]
CriterionName = Annotated[
    str | None, typer.Option(metavar="activation|taylor|magnitude", help="How heads and units are ranked.")
]
SelectionName = Annotated[
    str | None, typer.Option(metavar="sparsegpt|wanda|magnitude", help="How the zeros of --sparsity are selected.")
]
Multiple = Annotated[int | None, typer.Option(help="Hidden widths stay multiples of it; 8 if not given.")]
RuntimeName = Annotated[
    str | None, typer.Option(metavar="NAME", help="Runtime of --latency; onnxruntime if not given.")
]
Recover = Annotated[str | None, typer.Option(metavar="DIR|LIST|ARRAY", help="Images to learn from the dense model on.")]
Epochs = Annotated[int | None, typer.Option(help="Passes over the images of --recover.")]
MaxDrop = Annotated[float | None, typer.Option(metavar="POINTS", help="Budget: top-1 that may be lost on --eval.")]
Labelled = Annotated[
    str | None, typer.Option("--eval", metavar="LABELLED_DIR", help="Images that top-1 is counted on.")
]
MinSqnr = Annotated[float | None, typer.Option(metavar="DB", help="Budget: centred SQNR against the dense model.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the images.")]
Repair = Annotated[bool, typer.Option("--repair/--no-repair", help="Refit the layers behind what is removed.")]
Parts = Annotated[bool, typer.Option("--parts", help="Show every part.")]


def prune(
    source: Source,
    output: Output,
    images: Images = None,
    image_count: ImageCount = None,
    heads: Heads = None,
    mlp: Mlp = None,
    macs: Macs = None,
    latency: Latency = None,
    sparsity: Sparsity = None,
    merge: Merge = None,
    criterion: CriterionName = None,
    selection: SelectionName = None,
    multiple: Multiple = None,
    runtime: RuntimeName = None,
    recover: Recover = None,
    epochs: Epochs = None,
    max_drop: MaxDrop = None,
    labelled: Labelled = None,
    min_sqnr: MinSqnr = None,
    image_size: ImageSize = None,
    seed: Seed = None,
    weights: Weights = None,
    overrides: Overrides = None,
    labels: Labels = None,
    model: Model = None,
    *,
    repair: Repair = True,
    parts: Parts = False,
    accept_assumptions: AcceptAssumptions = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file that is there.")] = False,
    json: AsJson = False,
) -> None:
    """Make a checkpoint smaller: heads and units, weights, tokens."""
    given: dict[str, Any] = {
        "heads": heads,
        "mlp": mlp,
        "macs": macs,
        "latency": latency,
        "runtime": runtime,
        "multiple": multiple,
        "criterion": criterion,
        "selection": selection,
        "recover": recover,
        "epochs": epochs,
        "images": images,
        "image_count": image_count,
        "seed": seed,
        "weights": weights,
        "max_drop": max_drop,
        "min_sqnr": min_sqnr,
        "sparsity": parse_sparsity(sparsity),
        "merge": parse_merge(merge),
        "image_size": parse_size(image_size),
        "overrides": with_labels(parse_overrides(with_model(overrides, model)), labels) or None,
        "eval_images": labelled,
    }
    from vitedge.pruning.recipe import PruningRecipe
    from vitedge.render.prune import render

    with stage("starting", whole=True):
        from vitedge.verbs.prune import prune as run

    said = {name: value for name, value in given.items() if value is not None}
    recipe = PruningRecipe(**said, repair=repair, accept_assumptions=accept_assumptions)
    if parts and not recipe.is_structured:
        raise BadRecipe("--parts shows heads and units, of which none is removed: leave it out.")
    result = run(source, output, recipe, force=force)
    render(result, parts=parts, as_json=json)
    if result.failed:
        raise typer.Exit(4)
