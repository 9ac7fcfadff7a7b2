# SPDX-License-Identifier: Apache-2.0
"""Resizing, cropping and upsampling of images."""

from __future__ import annotations

from vitedge.mlprogram.ops.arguments import Table

OPS: Table = {}
