# SPDX-License-Identifier: Apache-2.0
"""Runs the model of this folder on pictures, and prints their likeliest classes: python infer.py PICTURE...

It needs numpy, pillow and onnxruntime. `STEPS` is what happens to a picture until the model takes it, in order; the
functions below do these steps, a function each, and can be taken over into a program of your own.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

# <bundle> written by vitedge, as in manifest.json
MODELS = ["model.onnx"]
INSTALL = "python -m pip install numpy 'pillow>=9.1' onnxruntime"
STEPS: list[dict[str, Any]] = [
    {"step": "open", "mode": "RGB", "exif": True, "transparency": "white"},
    {"step": "resize", "edge": "short", "height": 256, "width": 256, "interpolation": "bicubic", "kernel": "pillow"},
    {"step": "crop", "height": 224, "width": 224, "offset": "round", "fill": [0, 0, 0]},
    {"step": "pixels", "axes": "HWC", "dtype": "uint8"},
    {"step": "scale", "divisor": 255},
    {"step": "normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    {"step": "layout", "axes": "NCHW", "dtype": "float32"},
]
# </bundle>

try:
    import numpy as np
    import onnxruntime
    from PIL import Image, ImageOps, UnidentifiedImageError
except ImportError as error:
    print(f"infer.py: {error.name or error} is not installed; type: {INSTALL}", file=sys.stderr)
    sys.exit(3)

HERE = Path(__file__).resolve().parent
LABELS = HERE / "labels.txt"
SCORES = "logits"
"""The output that holds class scores; a model without one puts out features."""
MOST_PIXELS = 89_478_485
"""A larger picture is taken for a decompression bomb."""


class Stop(Exception):  # noqa: N818 - it is what happens, not only what failed
    """One sentence and the exit code: 2 for what was given, 3 for the runtime, 4 for wrong outputs."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    options = parse(arguments)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # the names of classes may have letters that a terminal has not
    try:
        run(options)
        sys.stdout.flush()
    except Stop as stop:
        print(f"infer.py: {stop}", file=sys.stderr)
        return stop.code
    except BrokenPipeError:  # whoever reads has enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(description="Run the model of this folder on pictures.")
    parser.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE", help="files that Pillow reads")
    parser.add_argument("--model", default=MODELS[0], choices=MODELS, help=f"which file of the folder ({MODELS[0]})")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="how many classes are printed (5)")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """Prints what the model makes of every picture."""
    batches = [prepare(path) for path in options.pictures]
    session = load(HERE / options.model)
    names = [output.name for output in session.get_outputs()]
    for path, batch in zip(options.pictures, batches):
        values = infer(session, batch)
        print(path)
        if SCORES in names:
            show(values[names.index(SCORES)][0], options.top)
            continue
        for name, value in zip(names, values):
            print(f"  {name}: {value.dtype} {'x'.join(str(edge) for edge in value[0].shape)}")


def load(path: Path) -> Any:
    """Returns the session that computes on the processor.

    Raises:
        Stop: there is no such file, or this release of ONNX Runtime does not load it.
    """
    if not path.is_file():
        raise Stop(2, f"There is no {path}: keep infer.py in the folder of the bundle.")
    try:
        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors share no class
        said = " ".join(str(error).split())[:200]
        release = onnxruntime.__version__
        newer = f"a newer one may: {INSTALL} --upgrade"
        raise Stop(3, f"onnxruntime {release} cannot load {path.name} ({said}); {newer}") from error


def infer(session: Any, batch: Any) -> list[Any]:
    """Returns the outputs for a batch of one picture, each ``(1, ...)``; a fixed larger batch is filled with copies."""
    image = session.get_inputs()[0]
    size = image.shape[0]
    filled = np.repeat(batch, size, axis=0) if isinstance(size, int) else batch
    return [values[:1] for values in session.run(None, {image.name: filled})]


def show(scores: Any, top: int) -> None:
    """Prints the likeliest classes with the softmax of their scores; of a single score, the score itself.

    Raises:
        Stop: the scores are not finite, or the names of the classes do not fit.
    """
    if not np.isfinite(scores).all():
        raise Stop(4, "The scores hold NaN or infinity.")
    labels = LABELS.read_text(encoding="utf-8").splitlines() if LABELS.is_file() else []
    if labels and len(labels) != len(scores):
        raise Stop(2, f"{LABELS.name} names {len(labels)} classes, and the model gives {len(scores)} scores.")
    if len(scores) == 1:
        print(f"  score {scores[0]:.4f}")
        return
    shares = np.exp(scores - scores.max())
    shares /= shares.sum()
    for number in np.argsort(-shares, kind="stable")[: max(top, 1)]:
        print(f"  {shares[number]:7.2%}  {labels[number] if labels else 'class'} ({number})")


def prepare(path: Path) -> Any:
    """Returns a picture as the model takes it: a batch of one."""
    values: Any = path
    for step in STEPS:
        values = DOES[step["step"]](values, step)
    return values


def open_picture(path: Path, step: dict[str, Any]) -> Any:
    """Returns the picture of a file with 8 bits a channel.

    Raises:
        Stop: there is none, or it cannot be read.
    """
    if not path.is_file():
        raise Stop(2, f"{path} is a folder: name pictures in it." if path.is_dir() else f"There is no {path}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bombs, which are refused here, and of odd metadata
            with Image.open(path) as file:
                if file.width * file.height > MOST_PIXELS:
                    raise Stop(2, f"{path} has {file.width} x {file.height} pixels, too many for a picture.")
                picture = ImageOps.exif_transpose(file) if step["exif"] else file
                picture.load()
                return convert(path, picture, step)
    except UnidentifiedImageError as error:
        raise Stop(2, f"{path} is no picture that Pillow knows.") from error
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise Stop(2, f"{path} is a damaged picture: {' '.join(str(error).split())}.") from error


def convert(path: Path, picture: Any, step: dict[str, Any]) -> Any:
    """Returns a picture in the mode of a step; 16-bit grey is scaled, and what is transparent laid over white."""
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray(((np.asarray(picture, np.uint32) + 128) // 257).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise Stop(2, f"{path} has pixels of 32 bits, whose range is not known: save it with 8 or 16 bits.")
    transparent = picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info
    if step["transparency"] == "white" and transparent:
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return picture.convert(step["mode"])


def refuse(_path: Path, step: dict[str, Any]) -> Any:
    """Refuses pictures for a model that takes another number of channels than they have."""
    raise Stop(
        2,
        f"The model takes {step['channels']} channels, and pictures have 3 (colour) or 1 (grey): prepare arrays by the "
        "steps in README.md, and give them to onnxruntime.",
    )


def resize(picture: Any, step: dict[str, Any]) -> Any:
    """Resizes a picture; both edges are rounded as timm's transforms do."""
    height, width = step["height"], step["width"]
    if step["edge"] == "short" and height == width:
        scaled = int(height * max(picture.size) / min(picture.size))
        width, height = (width, scaled) if picture.width <= picture.height else (scaled, height)
    elif step["edge"] != "both":
        ratios = picture.height / height, picture.width / width
        ratio = min(ratios) if step["edge"] == "short" else max(ratios)
        height, width = round(picture.height / ratio), round(picture.width / ratio)
    if min(height, width) < 1 or height * width > MOST_PIXELS:
        raise Stop(2, f"A picture of {picture.width} x {picture.height} pixels is too long to be resized by one side.")
    if step["kernel"] == "torch":
        values = np.asarray(picture, np.float64)
        values = filtered(filtered(values, 1, width, step["interpolation"]), 0, height, step["interpolation"])
        return Image.fromarray(values.astype(np.uint8))
    return picture.resize((width, height), Image.Resampling[step["interpolation"].upper()])


def filtered(values: Any, axis: int, size: int, interpolation: str) -> Any:
    """Resizes one axis as PyTorch's kernel for uint8 does: with weights of 16 bits, rounded to whole pixels."""
    old = values.shape[axis]
    stretch = max(old / size, 1.0)
    centres = (np.arange(size) + 0.5) * (old / size)
    weights = KERNELS[interpolation](np.abs(np.arange(old) + 0.5 - centres[:, None]) / stretch)
    weights /= weights.sum(axis=1, keepdims=True)
    bits = 0
    while bits < 22 and int(0.5 + weights.max() * 2 ** (bits + 1)) < 2**15:
        bits += 1
    whole = np.trunc(weights * 2**bits + np.copysign(0.5, weights))
    sums = np.moveaxis(np.tensordot(whole, values, axes=(1, axis)), 0, axis)
    return np.clip(np.floor((sums + 2 ** (bits - 1)) / 2**bits), 0, 255)


KERNELS: dict[str, Callable[[Any], Any]] = {
    "bilinear": lambda x: np.maximum(1 - x, 0),
    "bicubic": lambda x: np.where(
        x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0)
    ),
    "lanczos": lambda x: np.where(x < 3, np.sinc(x) * np.sinc(x / 3), 0),
}
"""Weight of a pixel by its distance, in pixels of the smaller picture."""


def crop(picture: Any, step: dict[str, Any]) -> Any:
    """Cuts the centre out of a picture, and pads one that is smaller."""
    height, width = step["height"], step["width"]
    if picture.width < width or picture.height < height:
        padded = Image.new(picture.mode, (max(width, picture.width), max(height, picture.height)), tuple(step["fill"]))
        gaps = padded.width - picture.width, padded.height - picture.height
        padded.paste(picture, tuple(math.ceil(gap / 2) if step["offset"] == "ceil" else gap // 2 for gap in gaps))
        picture = padded
    margins = picture.width - width, picture.height - height
    left, top = (round(margin / 2) if step["offset"] == "round" else margin // 2 for margin in margins)
    return picture.crop((left, top, left + width, top + height))


def pixels(picture: Any, _step: dict[str, Any]) -> Any:
    """Returns an array ``(height, width, channels)``, 0 to 255."""
    return np.asarray(picture, np.uint8).reshape(picture.height, picture.width, -1)


def reverse(values: Any, _step: dict[str, Any]) -> Any:
    """Turns red, green, blue into blue, green, red."""
    return values[..., ::-1]


def scale(values: Any, step: dict[str, Any]) -> Any:
    """Divides, in float32."""
    return np.divide(values, np.float32(step["divisor"]), dtype=np.float32)


def normalize(values: Any, step: dict[str, Any]) -> Any:
    """Takes the mean of each channel away, and divides by its standard deviation, in float32."""
    return (values - np.asarray(step["mean"], np.float32)) / np.asarray(step["std"], np.float32)


def layout(values: Any, step: dict[str, Any]) -> Any:
    """Returns a batch of one, ``(1, channels, height, width)``."""
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None], step["dtype"])


DOES: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "open": open_picture,
    "array": refuse,
    "resize": resize,
    "crop": crop,
    "pixels": pixels,
    "channels": reverse,
    "scale": scale,
    "normalize": normalize,
    "layout": layout,
}
"""Name of a step to the function that does it."""

if __name__ == "__main__":
    sys.exit(main())
