# SPDX-License-Identifier: Apache-2.0
"""Renders the programs of a bundle: `vitedge.guide.infer` and ``Infer.swift`` with the bundle's values in them.

Both are programs as they stand, with an example between two marks. In a bundle, what its manifest says stands there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vitedge.images.steps import Step
from vitedge.records import Artifact

PYTHON = "infer.py"
SWIFT = "Infer.swift"
_BLOCK = re.compile(r"(?ms)(?P<opens>^\S+ <bundle>[^\n]*\n).*?(?P<closes>^\S+ </bundle>$)")
_WORDS = {True: "True", False: "False", None: "None"}


def install(artifacts: Iterable[Artifact]) -> str:
    """Returns the command that installs what ``infer.py`` needs; of ONNX Runtime, what computes the files right."""
    told = (artifact.oldest_runtimes.get("onnxruntime", "") for artifact in artifacts)
    releases = [release for release in told if re.fullmatch(r"\d+(\.\d+)*", release)]
    oldest = max(releases, key=lambda release: [int(part) for part in release.split(".")], default="")
    runtime = f"'onnxruntime>={oldest}'" if oldest else "onnxruntime"
    return f"python -m pip install numpy 'pillow>=9.1' {runtime}"


def python_program(artifacts: Sequence[Artifact], steps: Sequence[Step]) -> str:
    """Returns ``infer.py``, which runs ONNX files in ONNX Runtime.

    Args:
        artifacts: the ONNX files, of which the first is run unless another is named.
        steps: from a picture to their input.
    """
    lines = [
        f"MODELS = {_python([artifact.path for artifact in artifacts])}",
        f"INSTALL = {_python(install(artifacts))}",
        "STEPS: list[dict[str, Any]] = [",
        *(f"    {_python(step)}," for step in steps),
        "]",
    ]
    return _filled(PYTHON, lines)


def swift_program(artifact: Artifact, steps: Sequence[Step]) -> str:
    """Returns ``Infer.swift``, which runs a Core ML package on a Mac.

    Args:
        artifact: the package; its input has 1 or 3 channels.
        steps: from a picture to its input; a package that takes pixels scales and normalizes by itself.
    """
    image = artifact.inputs[0]
    batch, channels, height, width = image.shape
    named = {step["step"]: step for step in steps}
    zeros, ones = [0] * int(channels), [1] * int(channels)
    resize, normalize = named["resize"], named.get("normalize", {"mean": zeros, "std": ones})
    fill = [value / 255 for value in named.get("crop", {"fill": zeros})["fill"]]
    lines = [
        f"let package = {json.dumps(artifact.path)}",
        f"let input = {json.dumps(image.name)}",
        f"let takesImage = {_swift(image.dtype == 'uint8')}  // an image of Core ML; else a multi-array",
        f"let (batch, channels, height, width) = ({batch}, {channels}, {height}, {width})",
        f"let rotates = {_swift(named['open']['exif'])}  // by the EXIF tag",
        f"let edge = {json.dumps(resize['edge'])}  // short: the picture covers the height and width below, long: it "
        "fits into them, both: it gets them",
        f"let (resizedHeight, resizedWidth) = ({float(resize['height'])}, {float(resize['width'])})",
        f"let fill: [CGFloat] = {fill}  // around a picture that is smaller than the input",
        f"let reversed = {_swift('channels' in named)}  // blue, green, red",
        f"let divisor: Float = {named.get('scale', {'divisor': 1})['divisor']}",
        f"let mean: [Float] = {list(normalize['mean'])}",
        f"let std: [Float] = {list(normalize['std'])}",
    ]
    return _filled(SWIFT, lines)


def _filled(name: str, lines: Iterable[str]) -> str:
    """Returns a program with other lines between its marks."""
    text = (Path(__file__).parent / name).read_text(encoding="utf-8")
    block = "".join(f"{line}\n" for line in lines)
    return _BLOCK.sub(lambda found: found["opens"] + block + found["closes"], text, count=1)


def _python(value: Any) -> str:
    """Returns a plain value as Python writes it, with the quotation marks of ruff's style."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_python(key)}: {_python(entry)}' for key, entry in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_python, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return _WORDS[value] if value is None or isinstance(value, bool) else repr(value)


def _swift(value: object) -> str:
    return "true" if value else "false"
