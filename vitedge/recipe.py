# SPDX-License-Identifier: Apache-2.0
"""What the user asked for, as one frozen record that goes into the manifest and can be read back from TOML."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitedge.errors import BadRecipe
from vitedge.files.plain import from_dict
from vitedge.records import Tolerance

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FORMATS = ("onnx", "coreml", "tensorrt")
SCHEMES = ("int8", "int8-dynamic", "w8", "w4", "w4a8", "w8a16", "mixed")
"""Ways to quantize; ``vitedge.quantization.placement`` says what each of them rounds."""
CALIBRATED = ("int8", "w4a8", "w8a16", "mixed")
"""Those whose activations get their ranges from images."""
PRECISIONS = ("fp32", "fp16", *SCHEMES)
LAYER_SCHEMES = ("float", "int8", "int8-dynamic", "w8", "w4", "w4a8", "w8a16")
"""What a single layer can be."""
ACTIVATIONS = ("uint8", "int8")
RANGES = ("auto", "minmax", "percentile", "mse", "entropy")
ROUNDINGS = ("auto", "nearest", "gptq", "adaround")
ATTENTION = ("auto", "all", "none")
SWITCHES = ("search", "off")
ON_OFF = ("on", "off")
CALIBRATION_COUNT = 128
"""Images that ranges are measured on, unless told otherwise."""
INPUTS = ("float32", "uint8")
IMAGE_COUNT = 8
"""Images that parity is measured on, unless told otherwise."""


@dataclass(frozen=True)
class QuantizationRecipe:
    """Everything that decides what quantization puts into a program."""

    scheme: str = "int8"
    activations: str | None = None
    """``uint8`` with a zero point, or ``int8`` without; None is what the target wants."""
    images: str | None = None
    """A folder, a list, an array or ``synthetic``; never assumed."""
    image_count: int = CALIBRATION_COUNT
    seed: int = 0
    ranges: str = "auto"
    """How an activation's range is found; ``auto`` takes the one of least measured error."""
    smoothing: str = "search"
    """Scaling and centring of the channels of LayerNorm outputs: ``search`` or ``off``."""
    equalization: str = "search"
    """Between values and the projection, and between queries and keys where attention is quantized."""
    shift: str = "search"
    """Centring of what an activation function puts out, where activations have no zero point."""
    rotation: str = "off"
    """Of heads, and of the residual stream where the architecture allows it."""
    bias_correction: str = "on"
    """``on`` or ``off``."""
    rounding: str = "auto"
    """Of weights; ``auto`` is GPTQ for 4 bits and the nearest integer for 8."""
    attention: str = "auto"
    """Which attentions' products are quantized: by the target's rules, ``all`` that can be, or ``none``."""
    block: int = 32
    """Weights that share a scale at 4 bits."""
    layers: Mapping[str, str] = field(default_factory=dict)
    """Name of a layer or attention, a pattern such as ``blocks.0.*``, or a kind (``linear``, ``conv``, ``depthwise``)
    to its scheme; a name goes before a pattern, a pattern before a kind."""
    max_drop: float | None = None
    """Budget: points of top-1 that may be lost on ``eval_images``."""
    eval_images: str | None = None
    """A labelled folder or list."""
    min_sqnr: float | None = None
    """Budget: centred SQNR in dB on the calibration images."""

    def __post_init__(self) -> None:
        _check_choice("scheme", (self.scheme,), SCHEMES)
        _check_choice("kind of activations", (self.activations or ACTIVATIONS[0],), ACTIVATIONS)
        _check_choice("way to find ranges", (self.ranges,), RANGES)
        _check_choice("rounding", (self.rounding,), ROUNDINGS)
        _check_choice("choice of attentions", (self.attention,), ATTENTION)
        _check_choice("scheme of a layer", tuple(self.layers.values()), LAYER_SCHEMES)
        _check_choice("bias_correction", (self.bias_correction,), ON_OFF)
        for name in ("smoothing", "equalization", "shift", "rotation"):
            _check_choice(name, (getattr(self, name),), SWITCHES)
        if self.block < 16 or self.block & (self.block - 1):
            raise BadRecipe(f"A block of weights is a power of two from 16 up; got {self.block}.")
        if self.max_drop is not None and self.eval_images is None:
            raise BadRecipe("--max-drop counts labelled images: add --eval LABELLED_DIR.")
        if self.max_drop is not None and not self.max_drop >= 0:
            raise BadRecipe(f"--max-drop is a number of percentage points, 0 or more; got {self.max_drop:g}.")
        if self.image_count < 1:
            raise BadRecipe(f"Calibration needs at least one image; got {self.image_count}.")


@dataclass(frozen=True)
class ExportRecipe:
    """Everything that decides what an export writes."""

    formats: tuple[str, ...] = ("onnx",)
    profile: str | None = None
    """Name of an entry of ``vitedge profiles``; it fills in what is None here."""
    precision: str = "fp32"
    image_size: tuple[int, int] | None = None
    """Height and width in pixels; None keeps the checkpoint's own."""
    batch: int | str = 1
    """A fixed batch size, or ``dynamic``."""
    opset: int | None = None
    """ONNX operator set; None is 18, or the profile's."""
    coreml_target: str | None = None
    """``iOS16`` to the newest that coremltools knows; None is iOS17, or the profile's."""
    input: str = "float32"
    """``uint8`` moves scaling and normalization into the graph: the input is then the image, NCHW, 0 to 255, RGB."""
    features: bool = False
    """Tokens and pooled features instead of logits."""
    images: str = "synthetic"
    """A folder of images for parity, or ``synthetic``."""
    image_count: int = IMAGE_COUNT
    seed: int = 0
    weights: str | None = None
    """Which set of weights, where the file holds several."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Fields of ModelSpec or Preprocessing that the user gave by hand."""
    quantization: QuantizationRecipe | None = None
    """How to quantize, where the precision is a scheme of quantization."""
    tolerance: Tolerance | None = None
    """What parity has to reach; None takes the default of the precision and the family."""

    def __post_init__(self) -> None:
        _check_choice("format", self.formats, FORMATS)
        _check_choice("precision", (self.precision,), PRECISIONS)
        _check_choice("input", (self.input,), INPUTS)
        if not self.formats:
            raise BadRecipe(f"An export needs at least one --format: {', '.join(FORMATS)}.")
        if self.batch != "dynamic" and not (isinstance(self.batch, int) and self.batch >= 1):
            raise BadRecipe(f"--batch is a number from 1 up, or dynamic; got {self.batch!r}.")
        if self.quantization is not None and self.quantization.scheme != self.precision:
            raise BadRecipe(
                f"The precision is {self.precision}, but quantization was asked for {self.quantization.scheme}."
            )
        if self.seed < 0:
            raise BadRecipe(f"--seed is a number from 0 up; got {self.seed}.")
        if self.image_count < 2:
            raise BadRecipe("Parity needs at least 2 images: with one, nothing shows that the output depends on it.")


def read_entries(path: Path) -> dict[str, Any]:
    """Reads the entries of a recipe from a TOML file whose keys are fields of `ExportRecipe`.

    Raises:
        BadRecipe: the file is missing, is not TOML, or has an entry that does not exist.
    """
    try:
        entries: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadRecipe(f"{path} cannot be read as a recipe: {error}.") from error
    from_dict(ExportRecipe, entries)
    return entries


def _check_choice(what: str, values: tuple[str, ...], choices: tuple[str, ...]) -> None:
    for value in values:
        if value not in choices:
            raise BadRecipe(f"There is no {what} {value!r}; choose from {', '.join(choices)}.")
