# SPDX-License-Identifier: Apache-2.0
"""The table of all families."""

from __future__ import annotations

from vitedge.checkpoints import beit, mobilevit, mobilevitv2, pit, swin, vit
from vitedge.checkpoints.family import Family

FAMILIES: tuple[Family, ...] = (beit, pit, mobilevit, mobilevitv2, swin, vit)
"""Tried in order: a family whose weights carry another's names beside its own comes before it, as BEiT before ViT."""
