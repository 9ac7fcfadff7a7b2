# SPDX-License-Identifier: Apache-2.0
"""The records of a quantization: every choice with its reason, every step with its gain, every loss with its size.

Frozen dataclasses without behaviour, like `vitedge.records`; nothing here imports a framework. Ratios of signal to
quantization noise (SQNR) are ``10 log10(sum y^2 / sum (y - y~)^2)`` in dB, of the float value ``y`` and the quantized
``y~``; infinite where nothing is lost. Field names are keys of ``.pt2`` files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vitedge.records import CheckpointIdentity
from vitedge.records.showing import Shown


@dataclass(frozen=True)
class LayerChoice:
    """The precision of one layer, and how it was found."""

    layer: str
    """Name of the module."""
    kind: str
    """``linear``, ``conv`` or ``depthwise``."""
    scheme: str
    """``int8``, ``w8``, ``w4``, ``float``, …"""
    reason: str = ""
    """One phrase; empty where the layer follows the scheme of the whole."""
    activation: str | None = None
    """Integer type of its input, ``dynamic`` where its range is found at run time, or None for float32."""
    range_method: str | None = None
    """Estimator of the input's range: ``min-max``, ``percentile …``, ``mse`` or ``entropy``; None without a range."""
    low: float | None = None
    """Smallest real number that the input's integers represent."""
    high: float | None = None
    """Largest real number that the input's integers represent."""
    sqnr_db: float | None = None
    """SQNR of the rounded input over the calibration images."""
    weight_dtype: str | None = None
    """Integer type of its weight, or None for float32."""
    granularity: str | None = None
    """Elements of the weight that share a scale: a ``channel``, or a ``block of 32``."""
    rounding: str | None = None
    """Rounding method of the weight: ``nearest``, ``gptq`` or ``adaround``."""


@dataclass(frozen=True)
class StepRecord:
    """A preparation step that was tried on one module, and its gain."""

    step: str
    """``smoothing``, ``value equalization``, …"""
    module: str
    """Name of the module; empty for the whole model."""
    choice: str
    """Name of the candidate that was taken; ``off`` where none was."""
    before_db: float
    """SQNR in dB without the step."""
    after_db: float
    """SQNR in dB with the candidate that was taken."""
    shift: float = 0.0
    """Constant that is subtracted from the input of the layer before it is rounded."""


@dataclass(frozen=True)
class LayerDiagnosis:
    """One layer of the quantized program compared with the same layer of the float program, over a few images."""

    layer: str
    """Name of the module."""
    sqnr_db: float
    """SQNR of its output in the quantized program: the loss by its own rounding and that of all layers before it."""
    alone_db: float
    """SQNR of its output for the float program's input: the loss by its own rounding alone."""
    weight_sqnr_db: float
    """SQNR of its weight."""
    input_sqnr_db: float
    """SQNR of the float program's input, rounded as the layer rounds it."""
    saturation: float
    """Share of that input's elements that are clamped to the smallest or largest integer."""


@dataclass(frozen=True)
class SoftmaxSurvival:
    """The effect of rounding a softmax's output to equal steps from 0 to 1."""

    levels: int
    """The integer that represents 1: 255 for uint8, 127 for int8."""
    row_mass: float
    """Mean sum of a rounded row; 1 is right."""
    dead_fraction: float
    """Share of the entries that round to zero, those that a mask excludes left out."""


@dataclass(frozen=True)
class AttentionDiagnosis:
    """One attention of the quantized program compared with the float program's, over a few images.

    Entropy in nats and distance (in widths and heights of the map) are those of the PiT paper (arXiv:2103.16302), over
    spatial tokens alone; None where tokens have no position on a map.
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
    """Mean sum of a row as it is multiplied by the values; 1 is right."""
    dead_fraction: float
    """Share of the entries that rounding made zero; 0 where the softmax is not rounded."""
    attended: float
    """Number of tokens that a row of the float program effectively attends to, the exponential of its entropy, in the
    head where it is largest."""
    survival: tuple[SoftmaxSurvival, ...]
    """The effect that rounding would have on the float program's softmax."""


@dataclass(frozen=True)
class FrontierPoint:
    """One program that the mixed-precision search tried."""

    given_back: tuple[str, ...]
    """``PART: SCHEME`` for each part of a higher precision than at the start."""
    sqnr_db: float
    """Centred SQNR on the calibration images."""
    top1: float | None = None
    """Share of the labelled images that are classified correctly; None where none were given."""
    drop_points: float | None = None
    """Percentage points of top-1 below the float program's; None where none were counted."""
    microseconds: float | None = None
    """Time of the kernels of one inference in ONNX Runtime: measured at the start, plus each part's difference."""


@dataclass(frozen=True)
class QuantizationRecord:
    """Everything that one quantization did."""

    scheme: str
    """The recipe's scheme."""
    images: int
    """Number of calibration images."""
    image_source: str
    """Folder, list or array, or ``synthetic, seed N``."""
    image_sha256: str
    """SHA-256 of the images' pixels."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Image that could not be read, to the reason."""
    effort: str = "default"
    """The recipe's effort."""
    left_out: tuple[str, ...] = ()
    """What the effort left out, a phrase each."""
    layers: tuple[LayerChoice, ...] = ()
    attention_choices: Mapping[str, str] = field(default_factory=dict)
    """Attention to its precision with the reason: ``float: …``, ``int8 scores: …`` or ``int8: …``."""
    steps: tuple[StepRecord, ...] = ()
    diagnoses: tuple[LayerDiagnosis, ...] = ()
    attentions: tuple[AttentionDiagnosis, ...] = ()
    shares: Mapping[str, float] = field(default_factory=dict)
    """Part to the power of its own error over that of the output's; empty where no search was needed."""
    frontier: tuple[FrontierPoint, ...] = ()
    """The programs that the search tried, ascending in precision, each more exact than those before."""
    missed: str = ""
    """By how much the budget is exceeded, as one phrase; empty where it is met."""
    sqnr_db: float | None = None
    """SQNR of the simulation against the float reference, after each output's mean over the images is removed."""
    agreement: float | None = None
    """Share of the images whose top-1 class the simulation keeps; None for features."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Title of a stage to its wall time."""
    notes: tuple[str, ...] = ()
    """Sentences for the user."""
    share: float | None = None
    """Share of the layers' weights that got the scheme (``mixed``: int8), 0 to 1; None in files of earlier versions."""


@dataclass(frozen=True, repr=False)
class QuantizationResult(Shown):
    """The result of ``quantize``: the file that it wrote and the record."""

    path: str
    """Path of the ``.pt2`` file."""
    size: int
    """Its size in bytes."""
    checkpoint: CheckpointIdentity
    variant: str
    """Variant of the model."""
    record: QuantizationRecord
    failed: str = ""
    """By how much the budget is exceeded, as one phrase; empty where it is met."""
    profiles: tuple[str, ...] = ()
    """Names of the profiles that it was made for."""

    def __fspath__(self) -> str:
        """Returns the path of the file, for everything that takes one."""
        return self.path
