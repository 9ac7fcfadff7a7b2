# SPDX-License-Identifier: Apache-2.0
"""Matrix products and attention."""

from __future__ import annotations

from vitedge.mlprogram.ops.arguments import Table

OPS: Table = {}
