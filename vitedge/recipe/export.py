# SPDX-License-Identifier: Apache-2.0
"""The recipe of an export: as it was asked for, and with nothing left open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vitedge.errors import BadRecipe
from vitedge.recipe.checks import check_image_count, check_image_size, check_tolerance, check_whole, is_whole
from vitedge.recipe.quantization import QuantizationRecipe
from vitedge.recipe.settings import SCHEMES, FloatType, InputType, Precision, name_settings
from vitedge.records import Tolerance
from vitedge.registry import LOCAL

IMAGE_COUNT = 8
"""Images that parity is measured on, unless told otherwise."""


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
        name_settings(self, precision=Precision, rest=FloatType, input=InputType)
        if self.batch != "dynamic" and not is_whole(self.batch, 1):
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
        if not (is_whole(usual, 1) and is_whole(largest, usual)):
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
