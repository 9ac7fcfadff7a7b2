# SPDX-License-Identifier: Apache-2.0
"""The recipe of a quantization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vitedge.errors import BadRecipe
from vitedge.recipe.checks import check_finite, check_image_count, check_whole
from vitedge.recipe.settings import (
    SCHEMES,
    Activations,
    AttentionChoice,
    LayerScheme,
    Precision,
    RangeMethod,
    WeightRounding,
    name_settings,
    named_setting,
)

CALIBRATION_COUNT = 128
"""Images that ranges are measured on, unless told otherwise."""


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
        name_settings(
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
