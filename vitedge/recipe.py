# SPDX-License-Identifier: Apache-2.0
"""Recipes: what the user asked for, as frozen records that go into the manifest and can be read from TOML."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from vitedge.errors import BadRecipe
from vitedge.files.plain import from_dict
from vitedge.records import Tolerance
from vitedge.registry import LOCAL

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

S = TypeVar("S", bound="Setting")

CALIBRATION_COUNT = 128
"""Images that ranges are measured on, unless told otherwise."""
IMAGE_COUNT = 8
"""Images that parity is measured on, unless told otherwise."""


class Setting(str, Enum):
    """A setting with named values; it is written, printed and compared as its text."""

    def __str__(self) -> str:
        return str(self.value)

    def __format__(self, specification: str) -> str:
        return format(str(self.value), specification)


class Precision(Setting):
    """The arithmetic of an artifact: a floating-point type, or a scheme of quantization."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    """Weights and activations of eight bits, with ranges from images."""
    INT8_DYNAMIC = "int8-dynamic"
    """Weights and activations of eight bits, with ranges that are found at run time."""
    W8 = "w8"
    """Weights of eight bits."""
    W4 = "w4"
    """Weights of four bits, with a scale for each block of them."""
    W4A8 = "w4a8"
    """Weights of four bits and activations of eight."""
    W8A16 = "w8a16"
    """Weights of eight bits and activations of sixteen."""
    MIXED = "mixed"
    """``int8`` where a budget allows it, float elsewhere."""


class FloatType(Setting):
    """The floating-point type of what a quantized artifact does not compute in integers."""

    FP32 = "fp32"
    FP16 = "fp16"


class LayerScheme(Setting):
    """The arithmetic of a single layer."""

    FLOAT = "float"
    INT8 = "int8"
    INT8_DYNAMIC = "int8-dynamic"
    W8 = "w8"
    W4 = "w4"
    W4A8 = "w4a8"
    W8A16 = "w8a16"


class Activations(Setting):
    """Integers of eight-bit activations."""

    UINT8 = "uint8"
    """With a zero point."""
    INT8 = "int8"
    """Without."""


class RangeMethod(Setting):
    """How the range of an activation is found in what was seen of it."""

    AUTO = "auto"
    """The one of least measured error."""
    MINMAX = "minmax"
    PERCENTILE = "percentile"
    MSE = "mse"
    ENTROPY = "entropy"


class WeightRounding(Setting):
    """How weights become integers."""

    AUTO = "auto"
    """GPTQ for four bits, the nearest integer for eight."""
    NEAREST = "nearest"
    GPTQ = "gptq"
    ADAROUND = "adaround"


class AttentionChoice(Setting):
    """Which attentions have products of integers."""

    AUTO = "auto"
    """By the rules of the compiler that the program is for."""
    ALL = "all"
    """All that can be."""
    NONE = "none"


class InputType(Setting):
    """Element type of an artifact's input."""

    FLOAT32 = "float32"
    """Normalized."""
    UINT8 = "uint8"
    """The RGB image, NCHW, 0 to 255; scaling and normalization are in the graph."""


SCHEMES = tuple(precision for precision in Precision if precision not in (Precision.FP32, Precision.FP16))
"""Ways to quantize; `vitedge.quantization.placement` says what each of them rounds."""
CALIBRATED = (Precision.INT8, Precision.W4A8, Precision.W8A16, Precision.MIXED)
"""Those whose activations get their ranges from images."""


@dataclass(frozen=True)
class QuantizationRecipe:
    """Everything that decides what quantization puts into a program."""

    scheme: Precision = Precision.INT8
    activations: Activations | None = None
    """None is what the compiler takes that the program is for."""
    images: str | None = None
    """A folder, a list, an array or ``synthetic``; never assumed."""
    image_count: int = CALIBRATION_COUNT
    seed: int = 0
    ranges: RangeMethod = RangeMethod.AUTO
    smoothing: bool = True
    """Search for a scaling and centring of the channels of LayerNorm outputs."""
    equalization: bool = True
    """Search for a scaling between values and the projection, and between queries and keys of quantized attention."""
    shift: bool = True
    """Search for a centring of what activation functions put out, where activations have no zero point."""
    rotation: bool = False
    """Rotate heads, and the residual stream where the architecture allows it."""
    bias_correction: bool = True
    """Take the mean of a layer's error off its bias."""
    rounding: WeightRounding = WeightRounding.AUTO
    attention: AttentionChoice = AttentionChoice.AUTO
    block: int = 32
    """Weights that share a scale at 4 bits."""
    layers: Mapping[str, LayerScheme] = field(default_factory=dict)
    """Name of a layer or attention, a pattern such as ``blocks.0.*``, or a kind (``linear``, ``conv``, ``depthwise``)
    to its scheme; a name goes before a pattern, a pattern before a kind."""
    max_drop: float | None = None
    """Budget: points of top-1 that may be lost on ``eval_images``."""
    eval_images: str | None = None
    """A labelled folder or list."""
    min_sqnr: float | None = None
    """Budget: centred SQNR in dB on the calibration images."""

    def __post_init__(self) -> None:
        _name_settings(
            self,
            scheme=Precision,
            activations=Activations,
            ranges=RangeMethod,
            rounding=WeightRounding,
            attention=AttentionChoice,
        )
        layers = {name: named_setting(LayerScheme, "scheme of a layer", scheme) for name, scheme in self.layers.items()}
        object.__setattr__(self, "layers", layers)
        if self.scheme not in SCHEMES:
            raise BadRecipe(f"{self.scheme} is no scheme of quantization; choose from {', '.join(SCHEMES)}.")
        check_whole("block", self.block, 16)
        if self.block & (self.block - 1):
            raise BadRecipe(f"A block of weights is a power of two from 16 up; got {self.block}.")
        if self.max_drop is not None and self.eval_images is None:
            raise BadRecipe("--max-drop counts labelled images: add --eval LABELLED_DIR.")
        check_finite("--max-drop, in percentage points,", self.max_drop, 0, 100)
        check_finite("--min-sqnr, in dB,", self.min_sqnr)
        check_whole("--seed", self.seed, 0)
        check_image_count("Calibration", self.image_count)


@dataclass(frozen=True)
class ExportRecipe:
    """Everything that decides what an export writes. None is what was not said: see `vitedge.verbs.resolve`."""

    formats: tuple[str, ...] | None = None
    """Names of `vitedge.export.formats.FORMATS`; None is the profile's first, or ONNX."""
    profiles: tuple[str, ...] = ()
    """Names of entries of ``vitedge profiles``, each with files of its own; they fill in what is None here."""
    precision: Precision | None = None
    """None is the profiles' first, or fp32."""
    rest: FloatType | None = None
    """Type of what a scheme of quantization leaves in floating point; None is what the compiler takes that a file is
    for: fp16 for TensorRT and Core ML, fp32 for processors."""
    image_size: tuple[int, int] | None = None
    """Height and width in pixels; None keeps the checkpoint's own."""
    batch: int | str = 1
    """A fixed batch size, or ``dynamic``."""
    engine_batch: tuple[int, int] | None = None
    """Batch that an engine is tuned for, and the largest, where the batch is dynamic; None is 8 and 32."""
    pad_heads: bool = False
    """Whether heads of attention are widened by channels of zeros to a size that TensorRT fuses."""
    opset: int | None = None
    """ONNX operator set; None is 18, or the profile's."""
    coreml_target: str | None = None
    """``iOS16`` to the newest that coremltools knows; None is iOS17, or the profile's."""
    runtime_versions: Mapping[str, str] = field(default_factory=dict)
    """Runtime that ONNX files have to load in, such as ``onnxruntime``, to its release, such as ``1.18``."""
    input: InputType = InputType.FLOAT32
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
    accept_assumptions: bool = False
    """Whether guessed facts that the outputs depend on, such as heads that no file tells, are taken as they are."""
    quantization: QuantizationRecipe | None = None
    """How to quantize, where the precision is a scheme of quantization."""
    tolerance: Tolerance | None = None
    """The tolerance of parity; None takes the default of the precision and the family."""
    device: str = LOCAL
    """Where artifacts are checked besides, and whose times count: a device of `vitedge.registry.DEVICES`."""

    def __post_init__(self) -> None:
        _name_settings(self, precision=Precision, rest=FloatType, input=InputType)
        if self.batch != "dynamic" and not _is_whole(self.batch, 1):
            raise BadRecipe(f"--batch is a number from 1 up, or dynamic; got {self.batch!r}.")
        check_image_size(self.image_size)
        check_whole("--opset", self.opset, 1)
        check_tolerance(self.tolerance, features=self.features)
        if self.engine_batch is not None:
            self._check_engine_batch(*self.engine_batch)
        if self.quantization is not None and self.precision not in (None, self.quantization.scheme):
            raise BadRecipe(f"The precision is {self.precision}, but quantization asks for {self.quantization.scheme}.")
        if self.rest is not None and self.precision in (Precision.FP32, Precision.FP16):
            raise BadRecipe(f"{self.precision} quantizes nothing, so that --rest has no use: leave it out.")
        check_whole("--seed", self.seed, 0)
        check_image_count("Parity", self.image_count)

    def _check_engine_batch(self, usual: int, largest: int) -> None:
        if not (_is_whole(usual, 1) and _is_whole(largest, usual)):
            raise BadRecipe(
                f"--engine-batch is the batch to tune for and the largest, such as 8:32; got {usual}:{largest}."
            )
        if self.batch != "dynamic":
            raise BadRecipe(f"--engine-batch is for --batch dynamic, and the batch is {self.batch}: leave one out.")


@dataclass(frozen=True)
class ResolvedRecipe(ExportRecipe):
    """A recipe that leaves nothing open: what is done, and what a manifest keeps.

    That of one artifact has one format and at most one profile; see `vitedge.verbs.resolve.targets`.
    """

    formats: tuple[str, ...] = ()
    precision: Precision = Precision.FP32
    form: str = "processor"
    """Key of `vitedge.export.formats.FORMS`: whose form the program of an artifact has."""
    packed_weights: bool = True
    """Whether ONNX products of floats and 8-bit weights read these packed: see `vitedge.verbs.runtime_versions`."""

    @property
    def is_half(self) -> bool:
        """Whether an artifact computes in float16 what is not integers."""
        return self.precision is Precision.FP16 or (self.precision in SCHEMES and self.rest is FloatType.FP16)


def check_whole(name: str, value: int | None, least: int) -> None:
    """Refuses a count that is no whole number, or too small; None is what was not said.

    Raises:
        BadRecipe: names the option and the smallest number that it takes.
    """
    if value is not None and not _is_whole(value, least):
        raise BadRecipe(f"{name} is a whole number from {least} up; got {value}.")


def check_finite(name: str, value: float | None, least: float = -math.inf, most: float = math.inf) -> None:
    """Refuses NaN, infinity and a number outside a range; None is what was not said.

    Raises:
        BadRecipe: names the option and its range.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is None or (is_number and math.isfinite(value) and least <= value <= most):
        return
    ends = f" from {least:g} to {most:g}" if math.isfinite(most) else f" from {least:g} up"
    raise BadRecipe(f"{name} is a finite number{ends if math.isfinite(least) else ''}; got {value}.")


def check_image_count(purpose: str, count: int) -> None:
    """Refuses fewer than two images for ``Parity`` or ``Calibration``.

    Raises:
        BadRecipe: says why one is not enough.
    """
    check_whole("--image-count", count, 0)
    if count < 2:
        raise BadRecipe(
            f"{purpose} needs at least 2 images, and --image-count is {count}: with fewer, nothing shows that the "
            "output depends on the image."
        )


def check_image_size(size: tuple[int, int] | None) -> None:
    """Refuses a height or width below one pixel; None is the checkpoint's own.

    Raises:
        BadRecipe: names the option.
    """
    if size is not None and not (len(size) == 2 and all(_is_whole(edge, 1) for edge in size)):
        raise BadRecipe(f"--image-size is a height and a width of at least one pixel; got {size}.")


def check_tolerance(tolerance: Tolerance | None, *, features: bool = False) -> None:
    """Refuses limits that are no numbers, that no comparison could exceed, or that leave nothing checked.

    Args:
        tolerance: of parity; None is the default one.
        features: whether tokens and pooled features are compared, which have no top-1.

    Raises:
        BadRecipe: names the option and its range.
    """
    if tolerance is None:
        return
    check_finite("--max-error (relative_error)", tolerance.relative_error, 0)
    check_finite("--min-sqnr (centred_sqnr_db), in dB,", tolerance.centred_sqnr_db)
    check_finite("--min-agreement (agreement), a share of the images such as 0.99,", tolerance.agreement, 0, 1)
    if tolerance == Tolerance():
        raise BadRecipe("A tolerance without a limit checks nothing: give --max-error, --min-sqnr or both.")
    if features and tolerance.relative_error is None and tolerance.centred_sqnr_db is None:
        raise BadRecipe("Features have no top-1, so --min-agreement checks nothing: add --max-error or --min-sqnr.")


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def read_entries(path: Path) -> dict[str, Any]:
    """Reads the entries of a recipe from a TOML file whose keys are fields of `ExportRecipe`.

    Raises:
        BadRecipe: the file is missing, is not TOML, or has an entry that does not exist.
    """
    try:
        entries: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadRecipe(f"{path} cannot be read as a recipe: {error}.") from error
    quantization = entries.get("quantization")
    if isinstance(quantization, dict) and "precision" in entries:
        quantization.setdefault("scheme", entries["precision"])
    from_dict(ExportRecipe, entries)
    return entries


def _name_settings(recipe: object, **kinds: type[Setting]) -> None:
    """Turns texts into the named values of settings, in place, while a frozen recipe is made."""
    for name, kind in kinds.items():
        value = getattr(recipe, name)
        if value is not None:
            object.__setattr__(recipe, name, named_setting(kind, name, value))


def named_setting(kind: type[S], name: str, value: str) -> S:
    """Returns the named value of a setting.

    Args:
        kind: the setting.
        name: its name in sentences.
        value: the text.

    Raises:
        BadRecipe: there is no such value, with those that there are.
    """
    try:
        return kind(value)
    except ValueError:
        raise BadRecipe(f"There is no {name} {value!r}; choose from {', '.join(kind)}.") from None
