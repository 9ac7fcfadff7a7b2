# SPDX-License-Identifier: Apache-2.0
"""Options that several commands have, with their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitedge.recipe import IMAGE_COUNT, Effort, Precision

Source = Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A file, a folder, timm:NAME or hf:NAME.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
Weights = Annotated[str | None, typer.Option(metavar="NAME", help="Which weights, where a file holds several sets.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Correct a fact by hand, e.g. heads=3 or mean=0.5,0.5,0.5."),
]
Labels = Annotated[
    str | None,
    typer.Option(
        "--labels", metavar="FILE", help="Names of the classes: one a line, a .csv, a .json or a config.json."
    ),
]
AcceptAssumptions = Annotated[
    bool,
    typer.Option("--accept-assumptions", help="Take guessed facts that the outputs depend on, such as heads."),
]
Model = Annotated[str | None, typer.Option(metavar="NAME", help="The weights are of this model of timm.")]
Images = Annotated[
    str | None, typer.Option(metavar="DIR|synthetic", help="Images that parity is measured on; synthetic if not given.")
]
ImageCount = Annotated[int | None, typer.Option(min=2, help=f"How many images; {IMAGE_COUNT} if not given.")]
ImageSize = Annotated[str | None, typer.Option(metavar="N|HxW", help="Pixels; the checkpoint's own if not given.")]
Batch = Annotated[str | None, typer.Option(metavar="N|dynamic", help="1 if not given.")]
InputType = Annotated[
    str | None, typer.Option("--input", metavar="float32|uint8", help="uint8 takes the RGB image itself.")
]
Profiles = Annotated[
    list[str] | None,
    typer.Option(
        "--for",
        metavar="PROFILE|auto",
        help="Settings of a device: one of vitedge profiles, or that which fits. Repeat.",
    ),
]
Device = Annotated[
    str | None, typer.Option(metavar="local|ssh:HOST|adb[:SERIAL]", help="Where artifacts run; see vitedge doctor.")
]
CompareSpeed = Annotated[bool, typer.Option("--compare-speed", help="Time the quantized ONNX file beside float ones.")]
KeepFailed = Annotated[bool, typer.Option("--keep-failed", help="Keep what fails its check, in BUNDLE.failed.")]
PadHeads = Annotated[bool, typer.Option("--pad-heads", help="TensorRT: widen heads by zeros to a size that it fuses.")]
Rest = Annotated[
    str | None,
    typer.Option(metavar="fp16|fp32", help="Type of what is not quantized; fp16 but for processors."),
]
RuntimeVersions = Annotated[
    list[str] | None, typer.Option("--runtime-version", metavar="NAME=RELEASE", help="Such as onnxruntime=1.18.")
]
MaxError = Annotated[float | None, typer.Option(help="Tolerance: max |difference| / max |reference|.")]
MinSqnr = Annotated[float | None, typer.Option(help="Tolerance: centred SQNR in dB.")]
MinAgreement = Annotated[float | None, typer.Option(help="Tolerance: share of images with the same top-1.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--quantization", "-Q", metavar="NAME=VALUE", help="A setting, e.g. ranges=mse; see docs/quantize.md."
    ),
]
EngineBatch = Annotated[
    str | None, typer.Option(metavar="USUAL:MAX", help="TensorRT with --batch dynamic; 8:32 if not given.")
]
RecipeFile = Annotated[
    Path | None, typer.Option(metavar="FILE.toml", help="Read options from a file; those given here win.")
]
EffortOption = Annotated[
    str | None,
    typer.Option("--effort", metavar="|".join(Effort), help="How far quantization goes; default if not given."),
]
Layers = Annotated[
    list[str] | None,
    typer.Option("--layer", metavar="NAME=SCHEME", help="One layer, a pattern, or a kind: blocks.0.*=float, conv=w8."),
]
PRECISIONS = "|".join(Precision)
