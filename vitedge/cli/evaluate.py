# SPDX-License-Identifier: Apache-2.0
"""The command ``evaluate``."""

from __future__ import annotations

from typing import Annotated

import typer

from vitedge.cli.options import AsJson, Device, Labels, Model, Overrides, Weights
from vitedge.cli.values import as_typed, parse_overrides, parse_size, refuse_idle, with_model
from vitedge.progress import stage
from vitedge.registry import LOCAL


def evaluate(
    subjects: Annotated[
        list[str],
        typer.Argument(metavar="BUNDLE|ARTIFACT|CHECKPOINT…", help="Several are counted on the same images."),
    ],
    images: Annotated[
        str,
        typer.Option(
            metavar="DIR|FILE.csv|FILE.npz", help="Labelled: class folders, rows of path and label, or two arrays."
        ),
    ],
    against: Annotated[
        str | None, typer.Option(metavar="CHECKPOINT", help="The reference that top-1 is compared with.")
    ] = None,
    image_count: Annotated[
        int | None, typer.Option(min=1, help="How many, evenly of all classes; all if not given.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of that choice; 0 if not given.")] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="POINTS", help="Largest loss of top-1 against the reference, or without one the first subject."
        ),
    ] = None,
    image_size: Annotated[
        str | None, typer.Option(metavar="N|HxW", help="Pixels for checkpoints; their own if not given.")
    ] = None,
    weights: Weights = None,
    overrides: Overrides = None,
    labels: Labels = None,
    model: Model = None,
    device: Device = None,
    *,
    json: AsJson = False,
) -> None:
    """Count top-1, top-5 and agreement on labelled images."""
    from vitedge.render.evaluate import render

    with stage("starting", whole=True):
        from vitedge.verbs.evaluate import EvaluationRequest
        from vitedge.verbs.evaluate import evaluate as run
    from vitedge.verbs.subjects import Weights as Choice

    if image_count is None:
        refuse_idle({"--seed": seed}, "for a choice among the images", "add --image-count N, or leave it out")
    choice = Choice(weights, parse_overrides(with_model(overrides, model)), parse_size(image_size))
    request = EvaluationRequest(images, image_count, seed or 0, against, max_drop, choice, device or LOCAL, labels)
    result = run(subjects, request)
    typed = [*as_typed(weights, with_model(overrides, model)), *(["--labels", labels] if labels else [])]
    render(result, options=typed, image_size=image_size, as_json=json)
    if not result.passed:
        raise typer.Exit(4)
