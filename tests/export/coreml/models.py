# SPDX-License-Identifier: Apache-2.0
"""Tiny seeded models of every family, captured for Core ML."""

from __future__ import annotations

from collections.abc import Callable

import timm
import torch
from timm.models.beit import Beit
from timm.models.byobnet import ByobNet
from timm.models.deit import VisionTransformerDistilled
from timm.models.pit import PoolingVisionTransformer
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tests.export.tiny import mobilevit_configuration
from tests.seeding import seeded
from vitedge.program.capture import capture
from vitedge.program.program import Program
from vitedge.records import ModelSpec, Preprocessing

CLASSES = 5
_PLAIN = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": CLASSES}
_PIT = {
    "img_size": 64,
    "patch_size": 16,
    "stride": 8,
    "stem_type": "overlap",
    "base_dims": (16, 16, 16),
    "depth": (1, 1, 1),
    "heads": (1, 2, 4),
    "mlp_ratio": 4,
    "num_classes": CLASSES,
}
_SWIN = {"img_size": 64, "patch_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4}


def _mobilevit(name: str) -> nn.Module:
    return ByobNet(mobilevit_configuration(name), num_classes=CLASSES)


FAMILIES: dict[str, tuple[Callable[[], nn.Module], int, tuple[str, ...]]] = {
    "vit": (lambda: VisionTransformer(**_PLAIN), 32, ("blocks.0", "blocks.1")),
    "registers": (
        lambda: VisionTransformer(**_PLAIN, reg_tokens=4, init_values=0.1, global_pool="avg", qk_norm=True),
        32,
        ("blocks.0", "blocks.1"),
    ),
    "deit": (lambda: VisionTransformerDistilled(**_PLAIN), 32, ("blocks.0", "blocks.1")),
    "pit": (lambda: PoolingVisionTransformer(**_PIT), 64, ("transformers.0.blocks.0", "transformers.2.blocks.0")),
    "pit distilled": (lambda: PoolingVisionTransformer(**_PIT, distilled=True), 64, ("transformers.1.blocks.0",)),
    "mobilevit": (lambda: _mobilevit("mobilevit"), 64, ("stages.0", "stages.1")),
    "mobilevitv2": (lambda: _mobilevit("mobilevitv2"), 64, ("stages.0", "stages.1")),
    "swin": (lambda: SwinTransformer(**_SWIN, num_classes=CLASSES), 64, ("layers.0.blocks.1", "layers.1.blocks.1")),
    "beit": (lambda: Beit(**_PLAIN, init_values=0.1, use_rel_pos_bias=True), 32, ("blocks.0", "blocks.1")),
    "hybrid": (
        lambda: timm.create_model("vit_tiny_r_s16_p8_224", img_size=64, depth=1, num_classes=CLASSES),
        64,
        ("blocks.0",),
    ),
}
"""Name to how it is built, its image size, and some of its blocks."""


class Normalized(nn.Module):
    """Takes an RGB image of 0 to 255 in front of a reference that may want its channels reversed."""

    mean: Tensor
    std: Tensor

    def __init__(self, reference: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.reference = reference
        self.reverse = preprocessing.channel_order == "bgr"
        self.register_buffer("mean", torch.tensor(preprocessing.mean).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).reshape(1, -1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        image = image.float() / 255
        image = image.flip(1) if self.reverse else image
        return self.reference((image - self.mean) / self.std)  # type: ignore[no-any-return]


class Features(nn.Module):
    """Tokens and pooled features in place of the logits."""

    def __init__(self, reference: VisionTransformer) -> None:
        super().__init__()
        self.reference = reference

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.reference.forward_features(image)
        return tokens, self.reference.forward_head(tokens, pre_logits=True)


def captured(
    family: str = "vit", *, dtype: str = "float32", order: str = "rgb", labels: tuple[str, ...] = ()
) -> Program:
    """The program of a tiny member of a family."""
    build, size, blocks = FAMILIES[family]
    spec = ModelSpec(
        family=family,
        variant=f"tiny {family}",
        naming="timm",
        image_size=(size, size),
        in_channels=3,
        classes=CLASSES,
        widths=(32,),
        depths=(2,),
        heads=(2,),
        mlp_ratios=(4.0,),
        patch=8,
        tokens=("class",),
        norm_eps=1e-6,
        activation="gelu",
        preprocessing=Preprocessing((0.5, 0.4, 0.3), (0.2, 0.21, 0.22), channel_order=order),
        labels=labels,
    )
    module = seeded(build())
    if dtype == "uint8":
        module = Normalized(module, spec.preprocessing).eval()
    return capture(module, spec, blocks, dtype=dtype)
