# SPDX-License-Identifier: Apache-2.0
"""Unary, binary and logical operations, comparisons, selection."""

from __future__ import annotations

from vitedge.mlprogram.ops.arguments import Table

OPS: Table = {}
