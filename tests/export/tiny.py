# SPDX-License-Identifier: Apache-2.0
"""Tiny models of the six architectures, captured once per test run."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import onnxruntime
import torch
from timm.models.beit import Beit
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg
from timm.models.deit import VisionTransformerDistilled
from timm.models.pit import PoolingVisionTransformer
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from tests.seeding import seeded
from vitedge.program.capture import capture
from vitedge.program.program import Program
from vitedge.records import ModelSpec, Preprocessing

SIZE = 32
BLOCKS = {
    "vit": ("blocks.0", "blocks.1"),
    "deit": ("blocks.0", "blocks.1"),
    "pit": ("transformers.0.blocks.0", "transformers.1.blocks.0"),
    "swin": ("layers.0.blocks.0", "layers.0.blocks.1", "layers.1"),
    "beit": ("blocks.0", "blocks.1"),
    "mobilevit": ("stages.0", "stages.1.1"),
    "mobilevitv2": ("stages.0", "stages.1.1"),
}
NAMES = tuple(BLOCKS)


def model(name: str) -> nn.Module:
    """A seeded model whose logits depend on the image."""
    columnar = {"img_size": SIZE, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 7}
    if name == "vit":
        module = VisionTransformer(**columnar)
    elif name == "deit":
        module = VisionTransformerDistilled(**columnar)
    elif name == "beit":
        module = Beit(**columnar, use_rel_pos_bias=True, use_abs_pos_emb=False, init_values=0.1)
    elif name == "pit":
        module = PoolingVisionTransformer(
            img_size=SIZE, patch_size=8, stride=4, stem_type="overlap", base_dims=(16, 16), depth=(1, 1), heads=(1, 2),
            mlp_ratio=2, num_classes=7,
        )  # fmt: skip
    elif name == "swin":
        module = SwinTransformer(
            img_size=SIZE, patch_size=2, window_size=4, embed_dim=24, depths=(2, 1), num_heads=(2, 4), num_classes=7
        )
    else:
        module = ByobNet(mobilevit_configuration(name), num_classes=7)
    return seeded(module)


def mobilevit_configuration(name: str) -> ByoModelCfg:
    bottle = {"bottle_in": True, "linear_out": True}
    attention = (
        ByoBlockCfg("mobilevit2", d=1, c=24, s=1, br=0.5, gs=1, block_kwargs={"transformer_depth": 1, "patch_size": 2})
        if name == "mobilevitv2"
        else ByoBlockCfg(
            "mobilevit", d=1, c=24, s=1, block_kwargs={"transformer_dim": 32, "transformer_depth": 1, "patch_size": 2}
        )
    )
    blocks = (
        ByoBlockCfg("bottle", d=1, c=16, s=1, gs=1, br=2.0, block_kwargs=bottle),
        (ByoBlockCfg("bottle", d=1, c=24, s=2, gs=1, br=2.0, block_kwargs=bottle), attention),
    )
    return ByoModelCfg(
        blocks=blocks, stem_chs=8, stem_type="3x3", stem_pool="", downsample="", act_layer="silu", num_features=0
    )


def spec(name: str) -> ModelSpec:
    """As much of a spec as lowering reads."""
    return ModelSpec(
        family=name, variant="tiny", naming="timm", image_size=(SIZE, SIZE), in_channels=3, classes=7, widths=(48,),
        depths=(2,), heads=(3,), mlp_ratios=(4.0,), patch=8, tokens=("class",), norm_eps=1e-6, activation="gelu",
        preprocessing=Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)), labels=tuple("abcdefg"),
    )  # fmt: skip


def program(name: str, batch: int | str = 1) -> tuple[nn.Module, Program]:
    """The model and its program, captured once: a cache tells an argument that is left out from its default."""
    return _captured(name, batch)


@cache
def _captured(name: str, batch: int | str) -> tuple[nn.Module, Program]:
    module = model(name)
    return module, capture(module, spec(name), BLOCKS[name], batch=batch)


def images(count: int = 6) -> torch.Tensor:
    """Normalized noise."""
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def session(path: object) -> onnxruntime.InferenceSession:
    """The file in ONNX Runtime, without its notices."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def relative_error(result: np.ndarray, reference: np.ndarray) -> float:
    """Largest difference, relative to the largest reference."""
    return float(np.abs(result - reference).max() / np.abs(reference).max())


def centred_sqnr(result: np.ndarray, reference: np.ndarray) -> float:
    """In dB, after each output's mean over the images is removed."""
    error, signal = result - reference, reference - reference.mean(0)
    return float(10 * np.log10((signal**2).sum() / ((error - error.mean(0)) ** 2).sum()))


def session_of(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """A model in memory in ONNX Runtime."""
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
