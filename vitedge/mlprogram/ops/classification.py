# SPDX-License-Identifier: Apache-2.0
"""What a classifier makes of its probabilities."""

from __future__ import annotations

from vitedge.mlprogram.ops.arguments import Table

OPS: Table = {}
