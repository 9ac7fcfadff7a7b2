# SPDX-License-Identifier: Apache-2.0
"""Reductions, softmax and cumulative sums."""

from __future__ import annotations

from vitedge.mlprogram.ops.arguments import Table

OPS: Table = {}
