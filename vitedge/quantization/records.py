# SPDX-License-Identifier: Apache-2.0
"""What quantization did, as data: every choice with its reason, every step with its gain, every loss with its size.

Frozen dataclasses without behaviour, like `vitedge.records`; nothing here imports a framework. Ratios of signal to
quantization noise (SQNR) are ``10 log10(sum y^2 / sum (y - y~)^2)`` in dB, of the float value ``y`` and the quantized
``y~``; infinite where nothing is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vitedge.records import CheckpointIdentity, LatencyRatio


@dataclass(frozen=True)
class LayerChoice:
    """How one layer is computed."""

    layer: str
    kind: str
    """``linear``, ``conv`` or ``depthwise``."""
    scheme: str
    """``int8``, ``w8``, ``w4``, ``float``, …"""
    reason: str = ""
    """One phrase; empty where the layer follows the scheme of the whole."""
    activation: str | None = None
    """Kind of integers of its input, ``dynamic`` where its range is found at run time, or None for float32."""
    range_method: str | None = None
    """How the input's range was found: ``minmax``, ``percentile``, ``mse`` or ``entropy``; None without a range."""
    low: float | None = None
    """Smallest real number that the input's grid holds."""
    high: float | None = None
    """Largest real number that the input's grid holds."""
    sqnr_db: float | None = None
    """Of the input on its grid, over the calibration images."""
    weight_dtype: str | None = None
    """Kind of integers of its weight, or None for float32."""
    granularity: str | None = None
    """``channel``, or ``block of 32``."""
    rounding: str | None = None
    """``nearest``, ``gptq`` or ``adaround``."""


@dataclass(frozen=True)
class StepRecord:
    """A preparation that was tried on one module, and what it was worth."""

    step: str
    """``smoothing``, ``equalization``, …"""
    module: str
    choice: str
    """What was taken, ``off`` included."""
    before_db: float
    """SQNR without the step."""
    after_db: float
    """SQNR with what was taken."""
    shift: float = 0.0
    """What is subtracted from the input of the layer before it is rounded."""


@dataclass(frozen=True)
class LayerDiagnosis:
    """One layer of the quantized program against the same layer of the float program, over a few images."""

    layer: str
    sqnr_db: float
    """Of its output where it stands: what its own rounding and that of all layers before it lose."""
    alone_db: float
    """Of its output when it is given what the float program's layer reads: what its own rounding loses."""
    weight_sqnr_db: float
    """Of its weight."""
    input_sqnr_db: float
    """Of the float program's input, rounded as the layer rounds it."""
    saturation: float
    """Share of that input's elements that lie outside of the grid and are clamped to one of its ends."""


@dataclass(frozen=True)
class SoftmaxSurvival:
    """What a softmax's output keeps on a grid from 0 to 1 without a zero point."""

    levels: int
    """The integer that stands for 1: 255 for uint8, 127 for int8."""
    row_mass: float
    """Mean sum of a rounded row; 1 is right."""
    dead_fraction: float
    """Share of the entries that round to zero, those that a mask excludes left out."""


@dataclass(frozen=True)
class AttentionDiagnosis:
    """One attention of the quantized program against the float program's, over a few images.

    Entropy in nats and distance (in widths and heights of the map) are those of the PiT paper (arXiv:2103.16302), over
    spatial tokens alone; None where tokens have no place on a map.
    """

    attention: str
    tokens: int
    """Entries of a row of the softmax."""
    entropy_float: float | None
    entropy_quantized: float | None
    distance_float: float | None
    distance_quantized: float | None
    kl: float
    """Mean Kullback-Leibler divergence of a row of the quantized program's softmax, before any rounding of its output,
    from the float program's, in nats."""
    row_mass: float
    """Mean sum of a row as the values are multiplied with it."""
    dead_fraction: float
    """Share of the entries that rounding made zero; 0 where the softmax is not rounded."""
    attended: float
    """How many tokens a row of the float program effectively attends to, the exponential of its entropy, in the head
    that spreads widest."""
    survival: tuple[SoftmaxSurvival, ...]
    """What the float program's softmax would keep, were it rounded."""


@dataclass(frozen=True)
class FrontierPoint:
    """One program that was tried for a budget."""

    given_back: tuple[str, ...]
    """``PART: SCHEME`` for what has a higher precision than at the start."""
    sqnr_db: float
    """Centred, on the calibration images."""
    top1: float | None = None
    """Share of the labelled images; None where none were given."""
    microseconds: float | None = None
    """Of the kernels of one inference in ONNX Runtime: measured at the start, what was given back by its own times."""


@dataclass(frozen=True)
class SpeedVerdict:
    """The quantized file against float files of the same export, on the machine that exported it."""

    text: str
    """One line."""
    ratios: tuple[LatencyRatio, ...] = ()
    """Quantized / fp32 and quantized / fp16."""
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    """Precision to the median of one inference."""
    unfused: tuple[str, ...] = ()
    """What ONNX Runtime computes in float though it was quantized, ``MODULE: WHAT``."""


@dataclass(frozen=True)
class QuantizationRecord:
    """Everything that one quantization did."""

    scheme: str
    images: int
    image_source: str
    """Folder, list or array, or ``synthetic, seed N``."""
    image_sha256: str
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Image that could not be read, to the reason."""
    layers: tuple[LayerChoice, ...] = ()
    attention_choices: Mapping[str, str] = field(default_factory=dict)
    """Attention to whether its products are quantized, and why: ``float: …`` or ``int8: …``."""
    steps: tuple[StepRecord, ...] = ()
    diagnoses: tuple[LayerDiagnosis, ...] = ()
    attentions: tuple[AttentionDiagnosis, ...] = ()
    shares: Mapping[str, float] = field(default_factory=dict)
    """Part to the power of its own error over that of the output's, where a budget had to give something back."""
    frontier: tuple[FrontierPoint, ...] = ()
    """What was tried for a budget, the least given back first, each more exact than those before."""
    missed: str = ""
    """How a budget was missed, or empty."""
    verdict: SpeedVerdict | None = None
    sqnr_db: float | None = None
    """Of the simulation against the float reference, after each output's mean over the images is removed."""
    agreement: float | None = None
    """Share of the images whose top-1 class the simulation keeps; None for features."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Part of the work to the time that it took."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class QuantizationResult:
    """What ``quantize`` wrote."""

    path: str
    size: int
    checkpoint: CheckpointIdentity
    variant: str
    """Of the model."""
    record: QuantizationRecord
    failed: str = ""
    """How a budget was missed, or empty."""
