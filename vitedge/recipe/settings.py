# SPDX-License-Identifier: Apache-2.0
"""The settings that have named values, such as precisions and methods."""

from __future__ import annotations

from enum import Enum
from typing import TypeVar

from vitedge.errors import BadRecipe

S = TypeVar("S", bound="Setting")


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


def name_settings(recipe: object, **kinds: type[Setting]) -> None:
    """Turns texts into the named values of settings, in place, while a frozen recipe is made.

    Args:
        recipe: the record.
        kinds: name of a field to the setting that it is; None stays what was not said.

    Raises:
        BadRecipe: there is no such value.
    """
    for name, kind in kinds.items():
        value = getattr(recipe, name)
        if value is not None:
            object.__setattr__(recipe, name, named_setting(kind, name, value))
