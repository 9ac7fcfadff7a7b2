# SPDX-License-Identifier: Apache-2.0
"""Renders ``README.md`` of a bundle: what it is, from what, how good, and how to feed it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

from rich import filesize

from vitedge.export.formats import FORMATS
from vitedge.guide.programs import PYTHON, SWIFT, install
from vitedge.images.steps import Step
from vitedge.records import Artifact, LatencyReport, Manifest, Origin, TensorSpec

README = "README.md"
LABELS = "labels.txt"
_TITLES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
_OUTPUTS = {
    "logits": "class scores before the softmax",
    "tokens": "the last features, after the final norm",
    "pooled": "the features that a head would read",
}
_EDGES = {
    "short": "by its short side, until it just covers {width} x {height} pixels",
    "long": "by its long side, until it fits into {width} x {height} pixels",
    "both": "to {width} x {height} pixels, whatever its aspect",
}
_OFFSETS = {
    "round": "half of an odd margin is rounded to the even number",
    "floor": "half of an odd margin is rounded down",
    "ceil": "half of an odd margin is rounded down, and of an odd padding up",
}


def readme(manifest: Manifest, files: Mapping[str, int]) -> str:
    """Returns the text of ``README.md``; the same manifest gives the same text.

    Args:
        manifest: of the bundle.
        files: name of every file beside the artifacts to its bytes.
    """
    parts = (_what(manifest), _run(manifest, files), _feed(manifest, files), _good(manifest), _check())
    return "\n".join(line for part in parts for line in part)


def _what(manifest: Manifest) -> Iterator[str]:
    spec, source = manifest.spec, manifest.checkpoint
    height, width = spec.image_size
    kind = f"{spec.classes} classes" if spec.classes else "an encoder, which puts out features"
    yield f"# {_plain(spec.variant)}"
    yield ""
    yield (
        f"A vision transformer for pictures of {width} x {height} pixels, {kind}. vitedge "
        f"{manifest.versions.get('vitedge', '')} exported it from `{_name(source.source)}` "
        f"({filesize.decimal(source.size)}, weights `{_plain(source.weight_set)}`, SHA-256 `{source.sha256[:16]}…`)."
    )
    for step in manifest.steps:
        yield f"Before that, `vitedge {_plain(step.verb)}` changed the weights of `{_name(step.source.source)}`."
    yield ""


def _run(manifest: Manifest, files: Mapping[str, int]) -> Iterator[str]:
    yield "| file | size | what it is |"
    yield "|---|---|---|"
    for artifact in manifest.artifacts:
        yield f"| `{artifact.path}` | {filesize.decimal(artifact.size)} | {_artifact(artifact)} |"
    about = {
        PYTHON: "runs the ONNX file on pictures; needs nothing of vitedge",
        SWIFT: "runs the Core ML package on a picture, on a Mac",
        LABELS: "names of the classes, one a line, beginning with class 0",
        "reference.npz": "pictures, and what the PyTorch model computes for them: the proof",
        "manifest.json": "hashes, preprocessing, recipe, versions and all results",
    }
    for name, what in about.items():
        if name == "manifest.json":
            yield f"| `{name}` | | {what} |"
        elif name in files:
            yield f"| `{name}` | {filesize.decimal(files[name])} | {what} |"
    yield ""
    notes = [f"- `{artifact.path}`: {_plain(note)}" for artifact in manifest.artifacts for note in artifact.notes]
    yield from (*notes, "") if notes else ()
    onnx = [artifact for artifact in manifest.artifacts if artifact.format == "onnx"]
    if PYTHON in files:
        yield from ("```", install(onnx), f"python {PYTHON} PICTURE", "```", "")
    if SWIFT in files:
        yield from ("On a Mac (this program has been compiled on none yet):", "")
        yield from ("```", f"swift {SWIFT} PICTURE", "```", "")


def _artifact(artifact: Artifact) -> str:
    """Returns what an artifact is, and what runs it."""
    said = f"{FORMATS[artifact.format].title}, {_plain(artifact.target)}, {_plain(artifact.precision)}"
    if artifact.engine is not None:
        targets = ", ".join(map(_plain, artifact.engine.get("targets", ())))
        return (
            f"{said}; built by {_plain(artifact.engine.get('builder'))} {_plain(artifact.engine.get('version'))}, "
            f"which alone reads it, for {targets}"
        )
    oldest = [
        f"{_TITLES.get(name, name)} {_plain(release)} or newer"
        for name, release in artifact.oldest_runtimes.items()
        if release[:1].isdecimal()
    ]
    return f"{said}; {' or '.join(oldest)}" if oldest else said


def _feed(manifest: Manifest, files: Mapping[str, int]) -> Iterator[str]:
    yield "## How to feed it"
    yield ""
    yield "| file | | name | type | shape |"
    yield "|---|---|---|---|---|"
    for artifact in manifest.artifacts:
        for way, tensors in (("input", artifact.inputs), ("output", artifact.outputs)):
            for tensor in tensors:
                shape = f"{_shape(tensor)}{_about(way, tensor, artifact)}"
                yield f"| `{artifact.path}` | {way} | `{_plain(tensor.name)}` | {tensor.dtype} | {shape} |"
    yield ""
    yield from (f"{number}. {words(step)}" for number, step in enumerate(manifest.preprocessing, 1))
    yield ""
    if not any(step["step"] == "scale" for step in manifest.preprocessing):
        yield "The model scales and normalizes the pixels itself: do not do it a second time."
    guessed = [
        name.removeprefix("preprocessing.")
        for name, origin in manifest.spec.origins.items()
        if origin is Origin.ASSUMED and name.startswith("preprocessing.")
    ]
    if guessed:
        yield f"**Guessed**, because no file tells it: {', '.join(sorted(guessed))}. Ask whoever trained the model."
    programs = [f"`{name}`" for name in (PYTHON, SWIFT) if name in files]
    yield f"The same steps, in this order: {', '.join([*programs, '`manifest.json` (`preprocessing`)'])}."
    yield ""


def words(step: Step) -> str:
    """Returns a step of the preprocessing as a sentence."""
    return _WORDS[step["step"]](step)


def _open(step: Step) -> str:
    colours = "red, green and blue" if step["mode"] == "RGB" else "grey"
    turned = "turned as its EXIF tag says" if step["exif"] else "not turned by its EXIF tag"
    clear = "transparent parts over white" if step["transparency"] == "white" else "its transparency ignored"
    return f"Open the picture as {colours}, 8 bits a channel, {turned}, {clear}."


def _resize(step: Step) -> str:
    kernel = {"pillow": "Pillow's", "torch": "PyTorch's for uint8, along the width first"}[step["kernel"]]
    return f"Resize it ({step['interpolation']}, {kernel}) {_EDGES[step['edge']].format(**step)}."


def _crop(step: Step) -> str:
    return (
        f"Cut {step['width']} x {step['height']} pixels out of its centre ({_OFFSETS[step['offset']]}); fill what is "
        f"missing with {', '.join(map(str, step['fill']))}."
    )


_WORDS: Mapping[str, Callable[[Step], str]] = {
    "open": _open,
    "array": lambda step: (
        f"Take an array (height, width, {step['channels']}), uint8; resize and crop each channel by itself."
    ),
    "resize": _resize,
    "crop": _crop,
    "pixels": lambda _: "Take its pixels, 0 to 255: (height, width, channels).",
    "channels": lambda _: "Reverse the channels, to blue, green, red.",
    "scale": lambda step: f"Divide by {step['divisor']}, in float32.",
    "normalize": lambda step: (
        f"Take the mean of each channel away ({_numbers(step['mean'])}), and divide by its standard deviation "
        f"({_numbers(step['std'])})."
    ),
    "layout": lambda step: f"Bring it to {step['axes']} (batch, channels, height, width), {step['dtype']}.",
}
"""Kind of a step to what says it."""


def _good(manifest: Manifest) -> Iterator[str]:
    yield "## How good it is"
    yield ""
    images = max((report.images for report in manifest.parity), default=0)
    source = manifest.parity[0].image_source if manifest.parity else ""
    yield f"Compared with the PyTorch model of the checkpoint on {images} images ({_plain(source)}):"
    yield ""
    yield "| file | computed by | output | relative error | SQNR | same top-1 | |"
    yield "|---|---|---|---|---|---|---|"
    for report in manifest.parity:
        where = report.machine.get("model", "")
        by = f"{_plain(report.runtime)} on {_plain(where)}" if where else _plain(report.runtime)
        for row in report.outputs:
            top1 = "" if row.agreement is None else f"{row.agreement:.1%}"
            yield (
                f"| `{report.artifact}` | {by} | `{_plain(row.output)}` | {row.relative_error:.1e} | "
                f"{row.centred_sqnr_db:.1f} dB | {top1} | {'passed' if report.passed else 'FAILED'} |"
            )
    yield ""
    yield "That says how near it is to the checkpoint, not how often the checkpoint is right."
    yield ""
    yield from _fast(manifest)


def _fast(manifest: Manifest) -> Iterator[str]:
    reports = manifest.latency.reports if manifest.latency is not None else ()
    if reports:
        yield "| file | runtime | where | batch | median | 95 % of the runs below |"
        yield "|---|---|---|---|---|---|"
        yield from map(_time, reports)
    else:
        yield "How fast it is was not measured: `vitedge bench` on this folder measures it, and writes it here."
    if manifest.speed is not None:
        yield from ("", _plain(manifest.speed.text))
    yield ""


def _time(report: LatencyReport) -> str:
    device: Mapping[str, Any] = report.device
    where = device.get("model") or device.get("processor") or report.where
    p95 = "" if report.quantiles.p95 is None else f"{report.quantiles.p95:.2f} ms"
    return (
        f"| `{_plain(PurePath(report.subject).name)}` | {_plain(report.runtime)} | {_plain(where)} | {report.batch} | "
        f"{report.quantiles.median:.2f} ms | {p95} |"
    )


def _check() -> Iterable[str]:
    return (
        "## How to check it",
        "",
        "`vitedge validate` on this folder compares every file with its hash, and the outputs with those of "
        "PyTorch again. Keep files of your own elsewhere: one that the manifest does not list fails it.",
        "",
    )


def _shape(tensor: TensorSpec) -> str:
    return f"({', '.join(map(str, tensor.shape))})" if tensor.shape else ""


def _about(way: str, tensor: TensorSpec, artifact: Artifact) -> str:
    if way == "output":
        return f", {_OUTPUTS[tensor.name]}" if tensor.name in _OUTPUTS else ""
    if tensor.dtype == "uint8" and artifact.format == "coreml":
        return ", an image of Core ML"
    return ", pixels from 0 to 255" if tensor.pixels or tensor.dtype == "uint8" else ""


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(map(str, values))


def _name(source: str) -> str:
    """Returns a checkpoint's file name without its folder, which is nobody's business; a name on a hub is whole."""
    return _plain(source if ":" in source[2:] else PurePath(source).name)


def _plain(text: object) -> str:
    """Returns a text from a file on one line, without what Markdown or a terminal would act on."""
    line = " ".join(str(text).split())
    return "".join(letter if letter.isprintable() and letter not in "|`<>*[]" else "_" for letter in line)
