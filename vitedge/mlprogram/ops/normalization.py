# SPDX-License-Identifier: Apache-2.0
"""Normalizations."""

from __future__ import annotations

from vitedge.mlprogram.ops.arguments import Table

OPS: Table = {}
