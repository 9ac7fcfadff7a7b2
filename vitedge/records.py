# SPDX-License-Identifier: Apache-2.0
"""The records that stages take and return: the one vocabulary of the package.

Frozen dataclasses without behaviour; `vitedge.files.plain` turns them into plain JSON values and back. Nothing here
imports a framework, so a bundle can be read where PyTorch is not installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Origin(str, Enum):
    """The source of a fact about a model."""

    SHAPE = "shape"
    """Read from the names or shapes of the weights."""
    CONFIG = "config"
    """Read from a configuration file beside or inside the checkpoint."""
    TABLE = "table"
    """No file holds it; it is what the family's published models use."""
    ASSUMED = "assumed"
    """No file and no table holds it; the likeliest value, to be checked by the user."""
    GIVEN = "given"
    """Said by the user."""


@dataclass(frozen=True)
class Preprocessing:
    """The preparation of an image: resize to ``image_size / crop``, crop the centre, scale to [0, 1], normalize."""

    mean: tuple[float, ...]
    """One entry per channel, in the order of ``channel_order``; another scale of the pixels is in it, as in ``std``."""
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    """``bicubic``, ``bilinear``, ``lanczos`` or ``nearest``."""
    crop: float = 0.9
    """Share of the resized image's side that the centre crop keeps; above 1, the image is padded."""
    channel_order: str = "rgb"
    """``rgb`` or ``bgr``: the order in which the model wants the channels."""
    crop_mode: str = "center"
    """Side that is resized: ``center``: the short one; ``squash``: both; ``border``: the long one, ``mean`` around."""
    crop_offset: str = "round"
    """Rounding of an odd margin: ``round`` (timm), ``floor`` (transformers), ``ceil`` (``Pil``, padding)."""
    exif: bool = True
    """Whether an image is rotated as its EXIF tag says: transformers' loader does, timm's does not."""
    transparency: str = "white"
    """``white``: laid over white; ``dropped``: the alpha channel is ignored, as timm and transformers do."""
    resizer: str = "pillow"
    """Library that resizes: ``pillow``, or ``torch`` as transformers' classes that need torchvision."""


@dataclass(frozen=True)
class BlockWidths:
    """The widths of one transformer block, and the tokens that it merges."""

    heads: int
    """Heads of attention; 0 where attention has none, as MobileViT v2's."""
    head_width: int
    """Channels of a head."""
    mlp: int
    """Units of the MLP's hidden layer."""
    merge: int = 0
    """Tokens that the block merges into others, between attention and MLP."""


@dataclass(frozen=True)
class ModelSpec:
    """A model as its checkpoint describes it: enough to build the module that the weights fit, and to feed it.

    The per-stage tuples have one entry for a plain (columnar) transformer and one per stage for PiT, Swin and
    MobileViT.
    """

    family: str
    """``vit``, ``beit``, ``pit``, ``mobilevit``, ``mobilevitv2`` or ``swin``: a key of the families' table."""
    variant: str
    """The published name, such as ``DeiT-S/16 distilled``, or ``custom …``."""
    naming: str
    """The library whose names the weights have: ``timm``, ``huggingface``, ``google``, ``cvnets``, ``naver``, …"""
    image_size: tuple[int, int]
    """Height and width in pixels."""
    in_channels: int
    classes: int
    """0 for a headless encoder, which exports as a feature extractor."""
    widths: tuple[int, ...]
    """Channels of a token."""
    depths: tuple[int, ...]
    """Transformer blocks."""
    heads: tuple[int, ...]
    mlp_ratios: tuple[float, ...]
    """Width of the MLP's hidden layer divided by that of a token."""
    patch: int
    """Edge of a patch: in pixels (ViT, BEiT, PiT, Swin), or in positions of the feature map (MobileViT)."""
    tokens: tuple[str, ...]
    """Prefix tokens in order: ``class``, ``distillation``, ``register`` (once each)."""
    norm_eps: float
    """Epsilon of the layer norms."""
    activation: str
    """``gelu`` (exact), ``gelu_tanh``, ``relu`` or another of `vitedge.models.activations.ACTIVATIONS`."""
    preprocessing: Preprocessing
    labels: tuple[str, ...] = ()
    """Names of the classes, or empty."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further settings of the family's builder; the family's module lists the keys, and no other is accepted."""
    blocks: tuple[BlockWidths, ...] = ()
    """One entry per transformer block in order of execution, where pruning or merging made blocks differ within a
    stage; empty: all blocks are as ``widths``, ``heads`` and ``mlp_ratios`` say of their stage."""
    origins: Mapping[str, Origin] = field(default_factory=dict)
    """Field name (``preprocessing.mean`` and ``options.KEY`` included) to the source of its value."""
    notes: tuple[str, ...] = ()
    """Remarks for the user: weights dropped on purpose, assumptions to check."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of an artifact."""

    name: str
    shape: tuple[int | str, ...]
    """Sizes of the axes; a string names a dynamic one."""
    dtype: str
    """NumPy's name of the element type."""
    pixels: bool = False
    """True for a float input whose values are pixels, 0 to 255: the artifact normalizes them itself."""


@dataclass(frozen=True)
class Artifact:
    """One file, or one ``.mlpackage`` folder, that a lowering wrote."""

    format: str
    """A key of `vitedge.export.formats.FORMATS`, such as ``onnx``."""
    path: str
    """Path relative to the bundle."""
    sha256: str
    """SHA-256 of the file; for a folder, of the sorted list of its files' names and hashes."""
    size: int
    """Bytes, all files together."""
    precision: str
    """``fp32``, ``fp16``, or the scheme of quantization, such as ``int8``."""
    target: str
    """``opset 18``, ``iOS17``, …"""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    """Path of every file of the artifact, relative to the bundle, to its SHA-256."""
    blocks: Mapping[str, str] = field(default_factory=dict)
    """Module name of the reference to the name of the value in the artifact that equals the module's output."""
    notes: tuple[str, ...] = ()
    engine: Mapping[str, Any] | None = None
    """`vitedge.export.tensorrt.records.EngineRecord` as plain values; None for every other format."""


@dataclass(frozen=True)
class Tolerance:
    """The limits that a comparison has to keep within. ``None`` leaves a metric unchecked."""

    relative_error: float | None = None
    """Largest allowed max |Δ| / max |reference|."""
    centred_sqnr_db: float | None = None
    """Smallest allowed signal-to-quantization-noise ratio after each output's mean over the images is removed."""
    agreement: float | None = None
    """Smallest allowed share of images with the reference's top-1 class."""


@dataclass(frozen=True)
class OutputParity:
    """One output compared with the reference's, over all images."""

    output: str
    """Name of the output, or the module name of a layer."""
    relative_error: float
    """max |Δ| / max |reference|; NaN where the output is missing or has another shape."""
    sqnr_db: float
    """Signal-to-quantization-noise ratio: power of the reference over power of the error, in decibels."""
    centred_sqnr_db: float
    """The same, with each value's mean over the images removed from the reference."""
    cosine: float
    """Cosine similarity of all values together."""
    agreement: float | None
    """Share of images with the reference's top-1 class; None where the output is not a vector of class scores, or
    where no score of the reference is above another."""
    kl: float | None
    """Mean Kullback-Leibler divergence of the softmax from the reference's, in nats; None likewise."""
    degenerate: str = ""
    """Reason why a comparison with this reference shows nothing, or empty."""


@dataclass(frozen=True)
class ParityReport:
    """The comparison of one artifact in one runtime with the reference."""

    artifact: str
    """Path relative to the bundle."""
    runtime: str
    """A key of `vitedge.registry.RUNTIMES`."""
    images: int
    image_source: str
    """``synthetic, seed 0`` or the folder, with the SHA-256 of the images that were used."""
    tolerance: Tolerance
    outputs: tuple[OutputParity, ...]
    passed: bool
    reason: str = ""
    """The tolerance that was exceeded, and by how much, or empty."""
    first_departure: str = ""
    """First module whose output exceeds the tolerance; empty where layers were not compared."""
    layers: tuple[OutputParity, ...] = ()
    """Every layer compared, where that was asked for."""
    note: str = ""
    """A caveat on the figures, one sentence, or empty."""
    machine: Mapping[str, str] = field(default_factory=dict)
    """The machine and versions that it ran with, where that was another machine than the one that wrote the bundle."""


@dataclass(frozen=True)
class ValueRange:
    """The largest magnitude among the outputs of one operation of a program."""

    operation: str
    """The kind of operation, such as ``matmul``."""
    value: str
    """Name of its output in the program."""
    module: str
    """The module of the reference that it belongs to; empty where that is not known."""
    dtype: str
    magnitude: float | None
    """Largest magnitude; None for infinity and NaN."""
    fault: str = ""
    """``overflow``, ``infinite``, ``NaN``, or empty where float16 can hold the values."""


@dataclass(frozen=True)
class OverflowReport:
    """The ranges of an artifact's values, compared with the range of float16."""

    artifact: str
    images: int
    limit: float
    """The magnitude from which a value counts as an overflow: float16's largest number less a safety margin."""
    ranges: tuple[ValueRange, ...]
    """Largest first, faults before everything else."""
    keep_fp32: tuple[str, ...]
    """Modules of the reference that have to stay in float32."""
    passed: bool


@dataclass(frozen=True)
class Finding:
    """Something in an artifact that will cost speed or precision on the device, or the damage that ends a check."""

    artifact: str
    rule: str
    """The kind of finding in a word, such as ``rank``."""
    where: str
    """The operation, value or input, with its number where there are several."""
    reason: str
    remedy: str


@dataclass(frozen=True)
class Quantiles:
    """Statistics of latency samples, in milliseconds. A percentile is None where there are too few samples for it."""

    minimum: float
    median: float
    mean: float
    p90: float
    p95: float | None
    p99: float | None
    cov: float
    """Coefficient of variation: standard deviation divided by the mean."""
    drift: float
    """Median of the last third of the samples divided by that of the first third, minus one."""


@dataclass(frozen=True)
class LatencyReport:
    """The latency of one artifact in one runtime."""

    subject: str
    """Path or name of what was measured."""
    runtime: str
    """A key of `vitedge.registry.RUNTIMES`."""
    device: Mapping[str, Any]
    """Model, OS, processor, clocks, temperature, versions, threads, provider that really ran."""
    batch: int
    samples: int
    """Number of timed inferences, each of one batch."""
    load_ms: float
    first_ms: float
    """Time of the first inference after loading."""
    peak_memory_mb: float
    """Peak memory of the process that ran it, libraries included, in 10^6 bytes."""
    file_size: int
    """Bytes on disk."""
    quantiles: Quantiles
    stable: bool
    """False where the spread did not become steady during warm-up, or the drift exceeds 3 %."""
    raw_ms: tuple[float, ...] = ()
    """All samples in the order of measurement."""


@dataclass(frozen=True)
class LatencyRatio:
    """The ratio of two latencies, measured in turn and in separate processes."""

    subject: str
    baseline: str
    ratio: float
    """Median of subject / baseline; below one is faster than the baseline."""
    low: float
    high: float
    """Bounds of the 95 % bootstrap interval."""
    verdict: str
    """``faster``, ``slower``, ``no difference``, or ``no conclusion`` where the measurement allows none."""


@dataclass(frozen=True)
class SpeedComparison:
    """The latency of a quantized file beside float files of the same export, measured in turn on one machine."""

    text: str
    """The result in one line."""
    ratios: tuple[LatencyRatio, ...] = ()
    """Quantized over fp32, and quantized over fp16."""
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    """Precision to the median time of one inference."""
    unfused: tuple[str, ...] = ()
    """Quantized operations that ONNX Runtime computes in float nevertheless, as ``MODULE: OPERATION``."""


@dataclass(frozen=True)
class BenchReport:
    """The latencies of all subjects of one `vitedge.bench`, and their ratios to the first."""

    reports: tuple[LatencyReport, ...]
    ratios: tuple[LatencyRatio, ...] = ()
    inconclusive: str = ""
    """Reason why no conclusion is drawn from the times, one sentence, or empty."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Name of each artifact of a bundle that was not measured, to the reason."""


@dataclass(frozen=True)
class StructureReport:
    """The checks of an artifact's content that need no runtime."""

    artifact: str
    checks: tuple[str, ...]
    """The properties that were confirmed, one phrase each."""
    passed: bool
    reason: str = ""
    """The property that does not hold, or empty."""
    remarks: tuple[str, ...] = ()
    """What is no fault and may still cost speed, one phrase each."""


@dataclass(frozen=True)
class CheckpointIdentity:
    """The checkpoint that an artifact was made from."""

    source: str
    """The path, or the name on the hub."""
    sha256: str
    size: int
    weight_set: str
    """Name of the set of weights that was used, where the file holds several."""


@dataclass(frozen=True)
class Step:
    """A change of the model itself, such as pruning, that its weights went through."""

    verb: str
    """``prune``."""
    source: CheckpointIdentity
    """The weights before it."""
    recipe: Mapping[str, Any]
    """What was asked for, as plain values."""
    result: Mapping[str, Any]
    """What was done, as plain values."""


@dataclass(frozen=True)
class Manifest:
    """``manifest.json`` of a bundle: its artifacts, their origin, and the results of all checks."""

    format_version: int
    checkpoint: CheckpointIdentity
    spec: ModelSpec
    recipe: Mapping[str, Any]
    """`vitedge.recipe.ExportRecipe` as plain values."""
    artifacts: tuple[Artifact, ...]
    parity: tuple[ParityReport, ...]
    structure: tuple[StructureReport, ...]
    latency: BenchReport | None
    """The last measurement of the bundle alone; None where there was none."""
    files: Mapping[str, str]
    """Every other file of the bundle to its SHA-256."""
    versions: Mapping[str, str]
    """Packages, Python and the platform that wrote the bundle, to their versions."""
    quantization: Mapping[str, Any] = field(default_factory=dict)
    """Form of a quantized program, a key of `vitedge.export.formats.FORMS`, to its
    `vitedge.quantization.records.QuantizationRecord` as plain values; ``program`` where a ``.pt2`` file was the source.
    """
    speed: SpeedComparison | None = None
    """Latency beside that of float files; None where that was not asked for."""
    steps: tuple[Step, ...] = ()
    """Changes of the model before the export, oldest first; parity is measured against the model after the last."""


@dataclass(frozen=True)
class Validation:
    """The result of `vitedge.validate`, or of importing the results of a verify kit."""

    subject: str
    parity: tuple[ParityReport, ...]
    structure: tuple[StructureReport, ...]
    files: int
    """Number of files whose hash is the manifest's."""
    passed: bool
    overflow: tuple[OverflowReport, ...] = ()
    findings: tuple[Finding, ...] = ()
    engines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Path of each engine to its `Artifact.engine`."""
    size: int | None = None
    """Bytes of the bundle, where its manifest was written anew."""
    notes: tuple[str, ...] = ()
    """Remarks about links to files elsewhere, ignored files, and images skipped or fewer than asked for."""
