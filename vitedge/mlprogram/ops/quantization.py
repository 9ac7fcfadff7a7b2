# SPDX-License-Identifier: Apache-2.0
"""Quantization of activations, and constants that are kept compressed."""

from __future__ import annotations

from vitedge.mlprogram.ops.arguments import Table

OPS: Table = {}
