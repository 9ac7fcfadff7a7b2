# SPDX-License-Identifier: Apache-2.0
"""The one vocabulary: what every stage takes and returns.

Frozen dataclasses without behaviour; `vitedge.files.plain` turns them into plain JSON values and back. Nothing here
imports a framework, so a bundle can be read where PyTorch is not installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Origin(str, Enum):
    """Where a fact about a model came from."""

    SHAPE = "shape"
    """Read from the names or shapes of the weights."""
    CONFIG = "config"
    """Read from a configuration file beside or inside the checkpoint."""
    TABLE = "table"
    """No file holds it; it is what the family's published models use."""
    ASSUMED = "assumed"
    """No file and no table holds it; the likeliest value, to be checked by the user."""
    GIVEN = "given"
    """The user said so."""


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the model's input.

    Resize the short side to ``image_size / crop``, crop the centre, scale to [0, 1], subtract ``mean`` and divide by
    ``std``. ``mean`` and ``std`` are given in the order of ``channel_order``.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    """``bicubic``, ``bilinear``, ``lanczos`` or ``nearest``."""
    crop: float = 0.9
    """Share of the resized image's side that the centre crop keeps."""
    channel_order: str = "rgb"
    """``rgb`` or ``bgr``: the order in which the model wants the channels."""


@dataclass(frozen=True)
class ModelSpec:
    """What a checkpoint is: enough to build the module that its weights fit, and to feed it.

    The per-stage tuples have one entry for a plain (columnar) transformer and one per stage for PiT, Swin and
    MobileViT.
    """

    family: str
    """``vit``, ``beit``, ``pit``, ``mobilevit``, ``mobilevitv2`` or ``swin``: a key of the families' table."""
    variant: str
    """The published name, such as ``DeiT-S/16 distilled``, or ``custom …``."""
    naming: str
    """In whose names the weights were found: ``timm``, ``huggingface``, ``google``, ``cvnets``, ``naver``, …"""
    image_size: tuple[int, int]
    """Height and width in pixels."""
    in_channels: int
    classes: int
    """0 for a headless encoder, which exports as a feature extractor."""
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    mlp_ratios: tuple[float, ...]
    patch: int
    """Edge in pixels of a patch (ViT, BEiT, PiT, Swin) or of a MobileViT patch on its feature map."""
    tokens: tuple[str, ...]
    """Prefix tokens in order: ``class``, ``distillation``, ``register`` (once each)."""
    norm_eps: float
    activation: str
    """``gelu`` (exact), ``gelu_tanh``, ``quick_gelu``, ``silu``, ``relu``."""
    preprocessing: Preprocessing
    labels: tuple[str, ...] = ()
    """Names of the classes, or empty."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What else the family's builder needs; its keys are listed in the family's module and no other is accepted."""
    origins: Mapping[str, Origin] = field(default_factory=dict)
    """Field name (``preprocessing.mean`` and ``options.KEY`` included) to where its value came from."""
    notes: tuple[str, ...] = ()
    """What a reader should know: weights dropped on purpose, assumptions to check."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of an artifact."""

    name: str
    shape: tuple[int | str, ...]
    """A string names a dynamic axis."""
    dtype: str
    """NumPy's name of the element type."""
    pixels: bool = False
    """A float input that takes the image as it is, 0 to 255, as ``uint8`` does."""


@dataclass(frozen=True)
class Artifact:
    """One file, or one ``.mlpackage`` folder, that a lowering wrote."""

    format: str
    path: str
    """Relative to the bundle."""
    sha256: str
    """Of the file; of a folder, of the sorted list of its files' names and hashes."""
    size: int
    """Bytes, all files together."""
    precision: str
    target: str
    """``opset 18``, ``iOS17``, …"""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    """Every file of the artifact, relative to the bundle, to its SHA-256."""
    blocks: Mapping[str, str] = field(default_factory=dict)
    """Module name of the reference to the name of the value in the artifact that equals the module's output."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tolerance:
    """What a comparison has to reach. ``None`` leaves a metric unjudged."""

    relative_error: float | None = None
    """Largest allowed max |Δ| / max |reference|."""
    centred_sqnr_db: float | None = None
    """Smallest allowed signal-to-quantization-noise ratio after each output's mean over the images is removed."""
    agreement: float | None = None
    """Smallest allowed share of images with the reference's top-1 class."""


@dataclass(frozen=True)
class OutputParity:
    """One output against its reference, over all images."""

    output: str
    relative_error: float
    sqnr_db: float
    centred_sqnr_db: float
    cosine: float
    agreement: float | None
    """Share of images with the reference's top-1 class; None where the output is not a vector of class scores."""
    kl: float | None
    """Mean Kullback-Leibler divergence of the softmax from the reference's, in nats; None likewise."""
    degenerate: str = ""
    """Why the reference cannot judge anything, or empty."""


@dataclass(frozen=True)
class ParityReport:
    """The verdict on one artifact in one runtime."""

    artifact: str
    runtime: str
    images: int
    image_source: str
    """``synthetic, seed 0`` or the folder, with the SHA-256 of the images that were used."""
    tolerance: Tolerance
    outputs: tuple[OutputParity, ...]
    passed: bool
    reason: str = ""
    """Which tolerance failed and by how much, or empty."""
    first_departure: str = ""
    """First module whose output departs, where it was looked for."""
    layers: tuple[OutputParity, ...] = ()
    note: str = ""
    """What the figures do not show, one sentence, or empty."""
    machine: Mapping[str, str] = field(default_factory=dict)
    """Where it ran and with which versions, if that was another machine than the one that wrote the bundle."""


@dataclass(frozen=True)
class ValueRange:
    """The largest magnitude that one operation of a program put out."""

    operation: str
    value: str
    module: str
    """Of the reference; empty where that is not known."""
    dtype: str
    magnitude: float | None
    """None for infinity and NaN."""
    fault: str = ""
    """``overflow``, ``infinite``, ``NaN``, or empty where float16 holds it."""


@dataclass(frozen=True)
class OverflowReport:
    """How near the values of an artifact come to what float16 can hold."""

    artifact: str
    images: int
    limit: float
    ranges: tuple[ValueRange, ...]
    """Largest first, faults before everything else."""
    keep_fp32: tuple[str, ...]
    """Modules of the reference that have to stay in float32."""
    passed: bool


@dataclass(frozen=True)
class Finding:
    """Something in an artifact that will cost speed or precision on the device."""

    artifact: str
    rule: str
    """A word for the kind of finding, such as ``rank``."""
    where: str
    """The operation, value or input, with its number where there are several."""
    reason: str
    remedy: str


@dataclass(frozen=True)
class Quantiles:
    """Of latency samples in milliseconds. A tail that the number of samples cannot carry is None."""

    minimum: float
    median: float
    mean: float
    p90: float
    p95: float | None
    p99: float | None
    cov: float
    """Standard deviation divided by the mean."""
    drift: float
    """Median of the last third of the samples divided by that of the first third, minus one."""


@dataclass(frozen=True)
class LatencyReport:
    """How fast one artifact ran in one runtime."""

    subject: str
    runtime: str
    device: Mapping[str, Any]
    """Model, OS, processor, clocks, temperature, versions, threads, provider that really ran."""
    batch: int
    samples: int
    load_ms: float
    first_ms: float
    peak_memory_mb: float
    """Of the process that ran it, its libraries included."""
    file_size: int
    quantiles: Quantiles
    stable: bool
    """False when the spread did not settle during warm-up or the drift exceeds 3 %."""
    raw_ms: tuple[float, ...] = ()


@dataclass(frozen=True)
class LatencyRatio:
    """Two subjects measured in turn, in processes of their own."""

    subject: str
    baseline: str
    ratio: float
    """Median of subject / baseline; below one is faster than the baseline."""
    low: float
    high: float
    """Bounds of the 95 % bootstrap interval."""
    verdict: str
    """``faster``, ``slower`` or ``no difference``."""


@dataclass(frozen=True)
class SpeedComparison:
    """A quantized file beside float files of the same export, measured in turn on one machine."""

    text: str
    """One line."""
    ratios: tuple[LatencyRatio, ...] = ()
    """Quantized / fp32 and quantized / fp16."""
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    """Precision to the median of one inference."""
    unfused: tuple[str, ...] = ()
    """What ONNX Runtime computes in float though it was quantized, ``MODULE: WHAT``."""


@dataclass(frozen=True)
class BenchReport:
    """All subjects of one `bench`, and each against the first."""

    reports: tuple[LatencyReport, ...]
    ratios: tuple[LatencyRatio, ...] = ()


@dataclass(frozen=True)
class Cost:
    """What a model costs to keep and to run, at batch 1."""

    parameters: int
    gmacs: float
    """Multiply-accumulates in matrix products and convolutions, in 10^9."""
    activations_mb: float
    """Sum of the outputs of all leaf modules as float32, in 10^6 bytes."""


@dataclass(frozen=True)
class Inspection:
    """The answer of `inspect`."""

    source: str
    container: str
    """``pytorch zip``, ``pytorch legacy``, ``safetensors``, ``huggingface folder``, ``npz``."""
    size: int
    weight_set: str
    weight_sets: tuple[str, ...]
    spec: ModelSpec
    cost: Cost
    dropped: Mapping[str, str] = field(default_factory=dict)
    """Weights that the export does not need, to the reason."""


@dataclass(frozen=True)
class StructureReport:
    """What was checked of an artifact that cannot be run on this machine."""

    artifact: str
    checks: tuple[str, ...]
    """What holds, one phrase each."""
    passed: bool
    reason: str = ""
    """What does not hold, or empty."""


@dataclass(frozen=True)
class CheckpointIdentity:
    """Which file an artifact came from."""

    source: str
    sha256: str
    size: int
    weight_set: str


@dataclass(frozen=True)
class Manifest:
    """``manifest.json`` of a bundle: what is in it, where it came from, and how well it was found to compute."""

    format_version: int
    checkpoint: CheckpointIdentity
    spec: ModelSpec
    recipe: Mapping[str, Any]
    """`vitedge.recipe.ExportRecipe` as plain values."""
    artifacts: tuple[Artifact, ...]
    parity: tuple[ParityReport, ...]
    structure: tuple[StructureReport, ...]
    latency: BenchReport | None
    files: Mapping[str, str]
    """Every other file of the bundle to its SHA-256."""
    versions: Mapping[str, str]
    """Packages and the platform that wrote the bundle."""
    quantization: Mapping[str, Any] | None = None
    """`vitedge.quantization.records.QuantizationRecord` as plain values."""
    speed: SpeedComparison | None = None
    """The quantized file beside float ones; None where that was not asked for."""


@dataclass(frozen=True)
class ExportResult:
    """What `export` wrote."""

    bundle: str
    size: int
    manifest: Manifest
    seconds: Mapping[str, float]
    """Wall time of each stage."""
    pending: tuple[str, ...] = ()
    """Formats that were asked for and are not built on this machine, one sentence each."""


@dataclass(frozen=True)
class Validation:
    """The verdict of `validate`."""

    subject: str
    parity: tuple[ParityReport, ...]
    structure: tuple[StructureReport, ...]
    files: int
    """How many files had the hash that the manifest gives."""
    passed: bool
    overflow: tuple[OverflowReport, ...] = ()
    findings: tuple[Finding, ...] = ()
    size: int | None = None
    """Bytes of the bundle, where its manifest was written anew."""


@dataclass(frozen=True)
class WrittenKit:
    """A verify kit, as `kit write` wrote it."""

    bundle: str
    kit: str
    """The folder."""
    size: int
    """Bytes, all files together."""
