# SPDX-License-Identifier: Apache-2.0
"""A Core ML package computed in float32 throughout: its conversion without the rounding of half precision."""

from __future__ import annotations

from vitedge.runtimes import mlprogram


class Runtime(mlprogram.Runtime):
    """As `vitedge.runtimes.mlprogram.Runtime`, but nothing is rounded; what is stored in float16 stays as stored."""

    _compute = "fp32"
