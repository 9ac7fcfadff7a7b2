# SPDX-License-Identifier: Apache-2.0
"""The table of all families."""

from __future__ import annotations

from vitedge.checkpoints.families import beit, pit, swin
from vitedge.checkpoints.families.family import Family
from vitedge.checkpoints.families.mobilevit import v1 as mobilevit
from vitedge.checkpoints.families.mobilevit import v2 as mobilevitv2
from vitedge.checkpoints.families.vit import spec as vit

FAMILIES: tuple[Family, ...] = (beit, pit, mobilevit, mobilevitv2, swin, vit)
"""Tried in order: a family whose weights carry another's names beside its own comes before it, as BEiT before ViT."""
