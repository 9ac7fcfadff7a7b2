# SPDX-License-Identifier: Apache-2.0
"""The command line: parse, one library call, render.

Nothing heavy is imported before a command runs; the imports inside the commands are the one lazy boundary.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import os
import sys
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from vitedge import render
from vitedge.arguments import (
    bar_entries,
    parse_batch,
    parse_overrides,
    parse_size,
    quantization_entries,
    settled_entries,
)
from vitedge.cli_options import (
    PRECISIONS,
    AsJson,
    Batch,
    ImageCount,
    Images,
    ImageSize,
    InputType,
    Layers,
    MaxError,
    MinAgreement,
    MinSqnr,
    Overrides,
    Profile,
    Settings,
    Source,
    Weights,
)
from vitedge.cli_quantize import quantize
from vitedge.devices.profiles import apply
from vitedge.devices.profiles import profiles as table
from vitedge.errors import BadRecipe, VitedgeError
from vitedge.files.plain import from_dict
from vitedge.quantization.file.header import SUFFIX
from vitedge.recipe import IMAGE_COUNT, SCHEMES, ExportRecipe, read_entries
from vitedge.records import Bar
from vitedge.render_screen import error as say_error
from vitedge.render_screen import progress
from vitedge.stopping import obeying_signals

_OBJECTS_BEFORE_COLLECTION = 200_000

app = typer.Typer(
    name="vitedge",
    help="Vision transformer checkpoints in, verified ONNX and Core ML out.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

_USAGE = cast("type[Exception]", typer.BadParameter.__bases__[0])
"""What every mistake on the command line is; typer gives it no name of its own."""

app.command()(quantize)


@app.command()
def inspect(source: Source, weights: Weights = None, overrides: Overrides = None, *, json: AsJson = False) -> None:
    """Say what is in a checkpoint, and what it costs to run."""
    from vitedge.verbs.inspect import inspect as run

    render.inspection(run(source, weights=weights, overrides=parse_overrides(overrides)), as_json=json)


@app.command()
def export(
    source: Source,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="BUNDLE", help="The folder to write.")],
    formats: Annotated[
        list[str] | None, typer.Option("--format", metavar="onnx|coreml|tensorrt", help="Repeat for several.")
    ] = None,
    profile: Profile = None,
    precision: Annotated[str | None, typer.Option(metavar=PRECISIONS, help="fp32 if not given.")] = None,
    image_size: ImageSize = None,
    batch: Batch = None,
    opset: Annotated[int | None, typer.Option(help="ONNX operator set; 18, or the profile's.")] = None,
    coreml_target: Annotated[
        str | None, typer.Option(metavar="iOS16|…", help="Deployment target; iOS17, or the profile's.")
    ] = None,
    input_type: InputType = None,
    images: Images = None,
    image_count: ImageCount = None,
    layers: Layers = None,
    settings: Settings = None,
    seed: Annotated[int | None, typer.Option(help="Of the synthetic images or of the choice from a folder.")] = None,
    weights: Weights = None,
    overrides: Overrides = None,
    max_error: MaxError = None,
    min_sqnr: MinSqnr = None,
    min_agreement: MinAgreement = None,
    recipe: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="Read options from a file; those given here win.")
    ] = None,
    *,
    features: Annotated[bool, typer.Option("--features", help="Tokens and pooled features, not logits.")] = False,
    compare_speed: Annotated[
        bool, typer.Option("--compare-speed", help="Time the quantized ONNX file beside float ones.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the bundle that is there.")] = False,
    json: AsJson = False,
) -> None:
    """Write a bundle: artifacts, with the proof of what they compute."""
    given = {
        "formats": tuple(formats) if formats else None,
        "profile": profile,
        "precision": precision,
        "image_size": parse_size(image_size),
        "batch": parse_batch(batch),
        "opset": opset,
        "coreml_target": coreml_target,
        "input": input_type,
        "images": images,
        "image_count": image_count,
        "seed": seed,
        "weights": weights,
        "overrides": parse_overrides(overrides) or None,
        "features": features or None,
        "bar": bar_entries(max_error, min_sqnr, min_agreement),
    }
    entries = read_entries(recipe) if recipe else {}
    entries.update({name: value for name, value in given.items() if value is not None})
    if source.endswith(SUFFIX):
        entries = settled_entries(source, entries, {"--quantization": settings, "--layer": layers})
    elif entries.get("precision") in SCHEMES or settings or layers:
        calibration = {"images": images, "seed": seed}
        found = entries.get("quantization")
        entries["quantization"] = quantization_entries(entries.get("precision"), found, calibration, settings, layers)
    asked = apply(from_dict(ExportRecipe, entries), entries)
    from vitedge.verbs.export import export as run

    result = run(source, output, asked, force=force, compare_speed=compare_speed, progress=progress)
    render.export_result(result, as_json=json)
    if result.pending:
        raise typer.Exit(3)


@app.command()
def validate(
    subject: Annotated[str, typer.Argument(metavar="BUNDLE|ARTIFACT", help="A bundle, an .onnx or an .mlpackage.")],
    against: Annotated[
        str | None, typer.Option(metavar="CHECKPOINT", help="Compare with this checkpoint; an artifact needs it.")
    ] = None,
    images: Images = None,
    image_count: ImageCount = None,
    weights: Weights = None,
    overrides: Overrides = None,
    max_error: MaxError = None,
    min_sqnr: MinSqnr = None,
    min_agreement: MinAgreement = None,
    compute: Annotated[
        str, typer.Option(metavar="declared|fp32", help="Core ML: fp32 shows the conversion without its rounding.")
    ] = "declared",
    kit: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write what a Mac needs to run the bundle's Core ML package.")
    ] = None,
    imported: Annotated[
        Path | None, typer.Option("--import", metavar="FILE", help="Check what a kit brought back, and seal it.")
    ] = None,
    *,
    layers: Annotated[bool, typer.Option("--layers", help="Compare layer by layer; needs --against.")] = False,
    stress: Annotated[bool, typer.Option("--stress", help="Watch Core ML's values against float16's range.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the kit that is there.")] = False,
    json: AsJson = False,
) -> None:
    """Check a bundle, or compare an artifact with a checkpoint."""
    if sum(given is not None for given in (kit, imported, against)) > 1:
        raise BadRecipe("--kit, --import and --against do three different things: give one of them.")
    if kit is not None:
        from vitedge.devices.mac_kit.kit import write_kit

        return render.kit(subject, str(write_kit(Path(subject), kit, force=force)), as_json=json)
    if imported is not None:
        from vitedge.devices.mac_kit.kit import import_result

        result = import_result(Path(subject), imported)
    else:
        from vitedge.verbs.validate import Against, Manner
        from vitedge.verbs.validate import validate as run

        bar = bar_entries(max_error, min_sqnr, min_agreement)
        if against is None and (layers or bar):
            raise BadRecipe("--layers and bars are for a comparison with a checkpoint: add --against CHECKPOINT.")
        reference = (
            None
            if against is None
            else Against(
                against,
                images or "synthetic",
                image_count or IMAGE_COUNT,
                layers=layers,
                weights=weights,
                bar=None if bar is None else from_dict(Bar, bar),
                overrides=parse_overrides(overrides),
            )
        )
        result = run(Path(subject), reference, Manner(compute, stress))
    render.validation(result, as_json=json)
    if not result.passed:
        raise typer.Exit(4)
    return None


@app.command()
def bench(
    subjects: Annotated[
        list[str], typer.Argument(metavar="BUNDLE|ARTIFACT|CHECKPOINT…", help="The first is what others are held to.")
    ],
    device: Annotated[str, typer.Option(metavar="local", help="Where to run.")] = "local",
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads; all cores if not given.")] = None,
    image_size: Annotated[
        str | None, typer.Option(metavar="N|HxW", help="Pixels for a checkpoint; its own if not given.")
    ] = None,
    *,
    json: AsJson = False,
) -> None:
    """Measure latency, in turn, with its spread and tail."""
    from vitedge.verbs.bench import bench as run

    size = parse_size(image_size)
    result = run(subjects, device=device, threads=threads, image_size=size, progress=progress)
    render.bench(result, as_json=json)


@app.command()
def evaluate(
    subjects: Annotated[
        list[str],
        typer.Argument(metavar="BUNDLE|ARTIFACT|CHECKPOINT…", help="Several are judged on the same images."),
    ],
    images: Annotated[
        str,
        typer.Option(
            metavar="DIR|FILE.csv|FILE.npz", help="Labelled: class folders, rows of path and label, or two arrays."
        ),
    ],
    against: Annotated[
        str | None, typer.Option(metavar="CHECKPOINT", help="The reference that top-1 has to agree with.")
    ] = None,
    image_count: Annotated[
        int | None, typer.Option(min=1, help="How many, evenly of all classes; all if not given.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of that choice.")] = 0,
    max_drop: Annotated[
        float | None,
        typer.Option(metavar="POINTS", help="Top-1 that may be lost against the reference, or the first subject."),
    ] = None,
    image_size: Annotated[
        str | None, typer.Option(metavar="N|HxW", help="Pixels for checkpoints; their own if not given.")
    ] = None,
    weights: Weights = None,
    overrides: Overrides = None,
    *,
    json: AsJson = False,
) -> None:
    """Count what is classified correctly: top-1, top-5, agreement."""
    from vitedge import render_accuracy
    from vitedge.verbs.evaluate import Request
    from vitedge.verbs.evaluate import evaluate as run
    from vitedge.verbs.subjects import Weights as Choice

    choice = Choice(weights, parse_overrides(overrides), parse_size(image_size))
    request = Request(images, image_count, seed, against, max_drop, choice)
    result = run(subjects, request, progress)
    render_accuracy.evaluation(result, as_json=json)
    if not result.passed:
        raise typer.Exit(4)


@app.command()
def profiles(*, json: AsJson = False) -> None:
    """Print the table of devices that --for knows, with sources."""
    render.profiles(table(), as_json=json)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="The folder to write.")] = Path(
        "demo-out"
    ),
    *,
    json: AsJson = False,
) -> None:
    """Run the whole job on three small models that come with vitedge."""
    from vitedge.demo.run import run

    render.demo(run(output, progress=progress), as_json=json)


def _usage(error: Any) -> str:
    """What typer found wrong with the command line, in one sentence."""
    where = error.ctx.command_path if error.ctx else "vitedge"
    return f"{error.format_message().rstrip('.')}; see {where} --help."


def main() -> None:
    """Runs one command and exits: errors of `vitedge.errors` become one sentence and their exit code."""
    try:
        with obeying_signals():
            code = app(sys.argv[1:] or ["--help"], prog_name="vitedge", standalone_mode=False)
    except VitedgeError as error:
        say_error(str(error))
        code = error.exit_code
    except _USAGE as error:
        say_error(_usage(error))
        code = 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EPIPE):
            raise
        say_error(f"The result cannot be written to stdout: {error.strerror}.")
        code = 2
    sys.exit(code)


def script() -> None:
    """The console script: `main` in a process that has nothing else to do.

    Importing PyTorch makes millions of objects that live to the end: looking for garbage among them, and taking them
    apart one by one before the process ends anyway, would cost `inspect` a third of its time.
    """
    gc.set_threshold(_OBJECTS_BEFORE_COLLECTION)
    code = 0
    try:
        main()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # who reads a pipe may have left
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    script()
