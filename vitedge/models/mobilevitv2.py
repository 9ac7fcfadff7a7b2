# SPDX-License-Identifier: Apache-2.0
"""MobileViT v2 as timm's ByobNet, of any width, depth, number of stages and image size."""

from __future__ import annotations

from timm.models.mobilevit import MobileVitV2Block
from torch import nn

from vitedge.models.mobilevit import blocks, build_network, features, resize
from vitedge.records import ModelSpec

__all__ = ["blocks", "build", "features", "resize"]


def build(spec: ModelSpec) -> nn.Module:
    """Builds the module of the spec; see `vitedge.models.family.Builder.build`."""
    network = build_network(spec, "mobilevit2", [{} for _ in spec.widths])
    for part in network.modules():
        if isinstance(part, MobileVitV2Block):
            part.coreml_exportable = False  # a process-wide switch of timm would put im2col into the graph
    return network
