# SPDX-License-Identifier: Apache-2.0
"""A Core ML package computed in float32 throughout: its conversion without the rounding of half precision."""

from __future__ import annotations

from vitedge.runtimes import mlprogram


class Runtime(mlprogram.Runtime):
    """The runtime of `vitedge.runtimes.mlprogram`, without rounding; constants stored in float16 stay as stored."""

    _compute = "fp32"
