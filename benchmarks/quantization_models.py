# SPDX-License-Identifier: Apache-2.0
"""The full-size models that quantization is measured on, with seeded weights, and the same with outlier channels.

A model as its library initializes it has logits that are nearly the same for every image, and activations without
outlier channels; both flatter a quantizer. Here every matrix is 1.5 times as wide as keeps the variance, gains of the
norms vary and biases are not zero (`tests.seeding.seeded`), so that attention is peaked and logits depend on the image.
MobileViT's batch normalizations take their statistics, channel by channel, from synthetic images, and what its
transformers add to the stream is made quiet beside it, as training leaves both.

Trained vision transformers have a few channels of LayerNorm outputs that are tens of times as large as the others
(arXiv:2212.08254, figure 1). `inject_outliers` makes such channels without changing what the model computes.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import nn

import vitedge
from tests.seeding import seeded
from vitedge import registry
from vitedge.checkpoints.read import read
from vitedge.devices import machine
from vitedge.images.image_set import load
from vitedge.images.preprocess import normalize
from vitedge.images.synthetic import synthesize
from vitedge.models.reference import load_reference
from vitedge.recipe import ExportRecipe, QuantizationRecipe
from vitedge.records import Tolerance

MODELS = {
    "ViT-S": "vit_small_patch16_224",
    "DeiT-S": "deit_small_patch16_224",
    "PiT-S": "pit_s_224",
    "MobileViT-S": "mobilevit_s",
    "Swin-T": "swin_tiny_patch4_window7_224",
}
"""Title to the name in timm."""
SIX = {**MODELS, "MobileViT v2": "mobilevitv2_100"}
"""The same with a sixth, whose attention has no product of queries and keys."""
SEEDS = {title: index for index, title in enumerate(SIX)}
FACTOR = 32.0
SHARE = 0.01
IMAGES = 128
WEIGHTS = "seeded, matrices 1.5 times as wide as keeps the variance; MobileViT settled and its transformers quiet"
QUIET = 0.3
SETTLING_SEED = 2
"""Seed of images that are neither those of the calibration (0) nor those of the evaluation (1)."""
UNCHECKED = Tolerance(centred_sqnr_db=-1000.0)
"""What no export exceeds, so that a figure is written down and not refused."""
PACKAGES = ("nncf", "openvino", "torchao")
READERS = (
    ("norm1", ("attn.qkv",)),
    ("norm2", ("mlp.fc1",)),
    ("norm", ("reduction", "head", "head_dist", "head.fc")),
)
"""A LayerNorm and the Linears that may read it, as children of the same module: timm's names in ViT, PiT, Swin and in
the transformers of MobileViT. MobileViT's last norm of a block is read by a convolution and is left alone."""


@dataclass(frozen=True)
class Altered:
    """One LayerNorm whose outlier channels were made."""

    norm: str
    readers: tuple[str, ...]
    channels: tuple[int, ...]


def build(title: str, *, outliers: bool = False) -> nn.Module:
    """A model of `SIX` in evaluation mode, float32."""
    module = seeded(timm.create_model(SIX[title]), SEEDS[title])
    settle(module)
    if outliers:
        inject_outliers(module)
    return module


@torch.no_grad()
def settle(module: nn.Module, edge: int = 256, count: int = 16) -> None:
    """Gives batch normalizations the mean and variance of their inputs over synthetic images; quiets transformers."""
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    if not norms:
        return
    for name, parameter in module.named_parameters():
        if ".attn.proj." in name or ".mlp.fc2." in name:
            parameter.mul_(QUIET)
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
        norm.momentum = 1.0
    module(torch.from_numpy(synthesize(count, edge, edge, SETTLING_SEED)) / 255)
    module.eval()


def write_checkpoint(title: str, folder: Path, *, outliers: bool = False) -> Path:
    """The weights of `build` as a file that every command of vitedge takes."""
    path = folder / f"{title}{'-outliers' if outliers else ''}.pth"
    torch.save({name: tensor.clone() for name, tensor in build(title, outliers=outliers).state_dict().items()}, path)
    return path


def write_images(checkpoint: Path, path: Path, count: int = IMAGES, seed: int = 0) -> Path:
    """Synthetic images as the model takes them, ``(count, 3, height, width)`` float32; what `lower` calibrates on."""
    spec = load_reference(read(str(checkpoint))).spec
    np.save(path, normalize(load("synthetic", spec, count, seed).pixels, spec.preprocessing))
    return path


def lower(
    checkpoint: Path,
    bundle: Path,
    precision: str = "fp32",
    images: str = "synthetic",
    count: int = IMAGES,
    **settings: Any,
) -> Path:
    """The ONNX file that ``vitedge export`` writes; no tolerance is set, so that a miss is measured and not refused.

    Args:
        checkpoint: what to export.
        bundle: the folder that is written.
        precision: ``fp32``, ``fp16``, or a scheme of quantization.
        images: what that calibrates on.
        count: how many of them.
        settings: further fields of `vitedge.recipe.ExportRecipe`.
    """
    is_float = precision in ("fp32", "fp16")
    quantization = None if is_float else QuantizationRecipe(precision, images=images, image_count=count)
    recipe = ExportRecipe(precision=precision, quantization=quantization, tolerance=UNCHECKED, **settings)
    vitedge.export(str(checkpoint), bundle, recipe, force=True)
    return bundle / "model.onnx"


def provenance(**settings: Any) -> dict[str, Any]:
    """Where, when and with what something was measured."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": machine.identity(),
        "versions": {**registry.environment(), **registry.versions(PACKAGES)},
        "weights": WEIGHTS,
        "images": "synthetic",
        **settings,
    }


@torch.no_grad()
def inject_outliers(module: nn.Module, share: float = SHARE, factor: float = FACTOR, seed: int = 0) -> list[Altered]:
    """Scales a share of the channels of LayerNorms by a factor, and the Linears that read them by its inverse.

    Gain and bias of a channel times 32 and the readers' column of it over 32 leave what the readers compute as it was,
    bit for bit as 32 is a power of two (arXiv:2211.10438, equation 3, the other way round). At least one channel of
    each LayerNorm is taken.

    Args:
        module: a timm model; altered in place.
        share: of the channels.
        factor: by which they are scaled.
        seed: decides which.

    Returns:
        What was altered, in the order of the modules.
    """
    generator = torch.Generator().manual_seed(seed)
    modules: dict[str, Any] = dict(module.named_modules())
    altered = []
    for norm, readers in _read_by_linears(modules):
        width = modules[norm].weight.numel()
        channels = torch.randperm(width, generator=generator)[: max(1, round(share * width))]
        modules[norm].weight[channels] *= factor
        modules[norm].bias[channels] *= factor
        for reader in readers:
            modules[reader].weight[:, channels] /= factor
        altered.append(Altered(norm, readers, tuple(channels.tolist())))
    return altered


def _read_by_linears(modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for place in modules:
        prefix = f"{place}." if place else ""
        for norm, names in READERS:
            readers = tuple(prefix + name for name in names if isinstance(modules.get(prefix + name), nn.Linear))
            if readers and isinstance(modules.get(prefix + norm), nn.LayerNorm):
                yield prefix + norm, readers
