# SPDX-License-Identifier: Apache-2.0
"""Operations of ML Programs that are known to leave the Neural Engine.

Apple publishes no such list, and Core ML decides on the device; what is here was measured or reported by others:

- [catalog] the operation catalog of ANEForge (https://aneforge.readthedocs.io/en/latest/op-catalog/), which gives for
  the Neural Engine's own compiler what it takes on A13/M1 to A17/M5; its guide is arXiv 2606.22283,
- [#1103] https://github.com/apple/coremltools/issues/1103: a gather takes the same time on the CPU alone,
- [#1780] https://github.com/apple/coremltools/issues/1780: recurrent layers do not run on the Neural Engine.
"""

from __future__ import annotations

from collections.abc import Mapping

_NEVER = "the compiler of the Neural Engine refuses it on every chip from A13/M1 to A17/M5"
_FROM_A14 = "the compiler of the Neural Engine takes it from A14/M2 on, and refuses it on A13/M1"
_GATHER = "it was seen to run on the CPU, and the Neural Engine gathers in hardware from A14/M2 on only"
_DATA = "its shape depends on its values, which the Neural Engine cannot have"
_SHAPES = "shapes are computed on the CPU; the Neural Engine takes fixed ones only"
_RECURRENT = "recurrent layers do not run on the Neural Engine"
_RANDOM = "the Neural Engine makes no such random numbers"
_LIST = "the Neural Engine has no lists"
_TRIGONOMETRY = "the compiler of the Neural Engine takes it from A15/M3 on only"

LEAVES_NEURAL_ENGINE: Mapping[str, str] = {
    # [catalog], [#1103]
    "gather": _GATHER,
    "gather_along_axis": _GATHER,
    "gather_nd": _GATHER,
    # [catalog]
    "scatter": _NEVER,
    "scatter_along_axis": _NEVER,
    "scatter_nd": _NEVER,
    "topk": _FROM_A14,
    "argsort": _FROM_A14,
    "non_zero": _DATA,
    "one_hot": _NEVER,
    "cumsum": "Core ML's form of it has no counterpart on the Neural Engine",
    "range_1d": "it is no operation of the Neural Engine: a constant has to take its place",
    "shape": _SHAPES,
    "band_part": _NEVER,
    "reverse_sequence": _NEVER,
    "sliding_windows": _NEVER,
    "mod": _NEVER,
    "reduce_prod": _NEVER,
    "logical_and": _NEVER,
    "logical_or": _NEVER,
    "logical_xor": _NEVER,
    "acos": _NEVER,
    "asin": _NEVER,
    "atanh": _NEVER,
    "cosh": _NEVER,
    "sinh": _NEVER,
    "tan": _NEVER,
    "cos": _TRIGONOMETRY,
    "sin": _TRIGONOMETRY,
    "affine": _FROM_A14,
    "crop_resize": _FROM_A14,
    "resample": _FROM_A14,
    "random_bernoulli": _RANDOM,
    "random_categorical": _RANDOM,
    "random_normal": _RANDOM,
    "random_uniform": _RANDOM,
    "make_list": _LIST,
    "list_gather": _LIST,
    "list_length": _LIST,
    "list_read": _LIST,
    "list_scatter": _LIST,
    "list_write": _LIST,
    # [catalog], [#1780]
    "gru": _RECURRENT,
    "lstm": _RECURRENT,
    "rnn": _RECURRENT,
}
"""MIL's name of an operation to the reason."""
