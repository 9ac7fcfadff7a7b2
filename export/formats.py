# SPDX-License-Identifier: Apache-2.0
"""The formats that an export writes: one record each, which holds all that is said of a format.

A new format is one folder beside this file and one entry of `FORMATS`. Nothing heavy is imported: the parts of a format
are named, and imported by `vitedge.registry` when they are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vitedge.errors import BadRecipe
from vitedge.recipe import SCHEMES, FloatType
from vitedge.registry import Part, Table
from vitedge.sentences import nearest

HALF_SCALES_SINCE = 19
"""Oldest ONNX opset whose QuantizeLinear and DequantizeLinear take float16 values and scales."""
_COREMLTOOLS = "pip install 'coremltools>=9.0'"


@dataclass(frozen=True)
class QuantizedForm:
    """Options of quantization for one kind of compiler or runtime."""

    title: str
    """Name of the compiler or runtime in sentences."""
    strictness: int
    """Rank among forms: a program that several targets share takes the form of the highest."""
    activations: str
    """Integer type of activations unless the recipe says another: ``uint8`` with zero points, ``int8`` without."""
    float_attention: str = ""
    """Reason why products of an attention stay in float, a phrase; empty where the compiler fuses int8 attention."""
    long_attention: int | None = None
    """Tokens above which the scores of an attention are quantized all the same."""
    zero_points: bool = True
    """Whether activations may have zero points other than 0."""
    integer_biases: bool = True
    """Whether biases are added as integers, or stay in floating point."""
    rest: FloatType = FloatType.FP32
    """Type of what is not quantized, unless the recipe says another."""
    schemes: tuple[str, ...] = SCHEMES
    """The schemes that can be written."""
    float_ends: Mapping[str, str] = field(default_factory=dict)
    """``first`` and ``last`` layer to why it stays in float at int8."""
    large_map: str = ""
    """Reason why a convolution over a large map stays in float at int8, a phrase."""
    fewest_positions: int = 0
    """Height times width of the output from which a map is large."""
    readiness: Part | None = None
    """Checks whether the compiler will read and fuse a quantized file: ``check(path, target)``."""
    on_processors: bool = False
    """Whether the form is meant for a processor, so that its speed is worth measuring on one."""


PROCESSOR = QuantizedForm(
    "ONNX Runtime",
    strictness=0,
    activations="uint8",
    float_attention="on a processor the products of a short attention are some 5 % of the time",
    # The time for the scores grows with the square of the tokens: with PiT-S's 730 it is an eighth of all.
    long_attention=512,
    # Measured on MobileViT-S with two threads of a processor with AVX-512 VNNI: above 1024, nothing is gained.
    large_map="a large map: in ONNX Runtime its convolution gains nothing from integers",
    fewest_positions=1025,
    on_processors=True,
)
# MobileViT-S has 10.8 dB for TensorRT with all convolutions quantized, 16.3 dB without those above 1024 positions and
# 20.9 dB without those of 1024 and more; for Core ML 13.0 dB with all, and 23.0 dB without those of 1024 and more.
_SYMMETRIC_MAP = "a large map: with symmetric ranges its convolution loses most"
CORE_ML = QuantizedForm(
    "Core ML",
    strictness=1,
    activations="int8",
    float_attention="Core ML computes products of two activations in float",
    rest=FloatType.FP16,
    large_map=_SYMMETRIC_MAP,
    fewest_positions=1024,
)
TENSORRT = QuantizedForm(
    "TensorRT",
    strictness=2,
    activations="int8",
    zero_points=False,
    integer_biases=False,
    rest=FloatType.FP16,
    schemes=("int8", "mixed", "w8"),
    float_ends={
        "first": "the first layer: TensorRT gains nothing from it",
        "last": "the head: a product with one row gains nothing in TensorRT",
    },
    large_map=_SYMMETRIC_MAP,
    fewest_positions=1024,
    readiness=Part("TensorRT's readiness check", "vitedge.export.tensorrt.readiness", ("onnx",)),
)


FORMS: Mapping[str, QuantizedForm] = {"processor": PROCESSOR, "coreml": CORE_ML, "tensorrt": TENSORRT}
"""Name to form."""
ENGINE = "tensorrt"
"""The form of programs that engines are built from."""


@dataclass(frozen=True)
class Format:
    """One kind of file that an export writes."""

    title: str
    """Name in sentences."""
    form: str
    """Key of `FORMS`: options of quantization for the format, unless the profile says otherwise."""
    file: str = ""
    """Name of the artifact in a bundle."""
    suffix: str = ""
    """File suffix of an artifact, wherever it lies."""
    lowering: Part | None = None
    """Writes it from the captured program: ``lower(program, recipe, path, float32_modules)`` returns an `Artifact`."""
    made_from: str = ""
    """The format whose artifact it is made from, where that is not the captured program."""
    building: Part | None = None
    """Makes it from that: ``build(artifact, request, builder)`` returns an `Artifact`."""
    profile: str = ""
    """The profile that it is for where none was named; empty where it is for no device in particular."""
    checker: Part | None = None
    """Describes and checks an artifact without running it: ``describe``, ``carried_spec`` and ``check``."""
    runtimes: tuple[str, ...] = ()
    """Names of `vitedge.registry.RUNTIMES` that show its parity; the last is the one that it is deployed in."""
    further: tuple[str, ...] = ()
    """Names of other runtimes that take it where one is asked for by name."""
    without_rounding: Mapping[str, str] = field(default_factory=dict)
    """Runtime to the one that computes the same artifact in float32 throughout."""
    layers: Part | None = None
    """Compares an artifact with the reference layer by layer: ``compare_layers``."""
    always_by_layer: bool = False
    """Whether layers are compared in every export, and not only where the outputs depart."""
    expected_weights: Part | None = None
    """Gives what the artifact's constants have to be: ``expected_weights(program)``."""
    findings: Part | None = None
    """Finds what will cost speed or precision on a device: ``lint(path, name)``."""
    overflow: Part | None = None
    """Watches the ranges of an artifact's values against float16: ``check_overflow(path, feeds, name)``."""
    fixed_batch: str = ""
    """Reason why a dynamic batch is written as 1, part of a sentence; empty where the batch may be dynamic."""
    fp16_sqnr_db: float = 0.0
    """Centred SQNR in dB that half precision aims at where the tolerance is lower."""
    half_scales_since: int = 0
    """Oldest opset whose quantizers take float16 values; 0 where the format has no opsets."""


FORMATS: Mapping[str, Format] = {
    "onnx": Format(
        "ONNX",
        "processor",
        "model.onnx",
        ".onnx",
        Part("ONNX", "vitedge.export.to_onnx", ("torch", "onnx", "onnxscript", "onnx_ir", "onnxruntime")),
        checker=Part("ONNX", "vitedge.export.onnx.artifact", ("onnx",)),
        runtimes=("onnxruntime",),
        further=("openvino", "onnxruntime-cuda", "onnxruntime-tensorrt"),
        layers=Part("ONNX by blocks", "vitedge.parity.blocks", ("onnxruntime",)),
        half_scales_since=HALF_SCALES_SINCE,
    ),
    "coreml": Format(
        "Core ML",
        "coreml",
        "model.mlpackage",
        ".mlpackage",
        Part("Core ML", "vitedge.export.to_coreml", ("torch", "coremltools"), _COREMLTOOLS),
        checker=Part("Core ML", "vitedge.export.coreml.artifact", ("coremltools",), _COREMLTOOLS),
        runtimes=("mlprogram", "coreml"),
        without_rounding={"mlprogram": "mlprogram-fp32"},
        layers=Part("Core ML by layers", "vitedge.parity.coreml.package", ("torch", "coremltools"), _COREMLTOOLS),
        always_by_layer=True,
        expected_weights=Part("Core ML's weights", "vitedge.export.coreml.expected_weights", ("torch",)),
        findings=Part("Core ML's findings", "vitedge.mlprogram.lint", ("coremltools",), _COREMLTOOLS),
        overflow=Part("ML Program", "vitedge.mlprogram.overflow", ("torch", "coremltools"), _COREMLTOOLS),
        fixed_batch="Core ML has no dynamic one that is quick",
        # An operator becomes several there, each of which rounds.
        fp16_sqnr_db=45.0,
    ),
    "tensorrt": Format(
        "TensorRT",
        ENGINE,
        "model.engine",
        ".engine",
        made_from="onnx",
        building=Part("TensorRT", "vitedge.export.to_tensorrt", ("onnx",)),
        profile="rtx",
        checker=Part("TensorRT", "vitedge.export.tensorrt.artifact"),
        runtimes=("tensorrt",),
    ),
}
"""Name to record, the default format first."""

DEFAULT = next(iter(FORMATS))
LOWERINGS: Table = {name: kind.lowering for name, kind in FORMATS.items() if kind.lowering}
CHECKERS: Table = {name: kind.checker for name, kind in FORMATS.items() if kind.checker}
LAYERS: Table = {name: kind.layers for name, kind in FORMATS.items() if kind.layers}


def named(name: str) -> Format:
    """Returns the format of that name.

    Raises:
        BadRecipe: there is none.
    """
    try:
        return FORMATS[name]
    except KeyError:
        near = nearest(name, FORMATS)
        raise BadRecipe(f"There is no format {name!r}; choose from {', '.join(FORMATS)}{near}") from None


def of_file(path: Path | str) -> str | None:
    """Returns the name of the format that a file's suffix stands for, or None."""
    suffix = Path(path).suffix
    return next((name for name, kind in FORMATS.items() if suffix and kind.suffix == suffix), None)


def readiness(name: str, form: QuantizedForm) -> Part | None:
    """Returns the check that a compiler will read and fuse a file of a format, if one builds from such files."""
    built = any(kind.made_from == name and FORMS[kind.form] is form for kind in FORMATS.values())
    return form.readiness if built else None
