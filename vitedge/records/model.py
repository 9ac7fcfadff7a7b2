# SPDX-License-Identifier: Apache-2.0
"""The model that a checkpoint holds, and what was done to its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Origin(str, Enum):
    """The source of a fact about a model."""

    SHAPE = "shape"
    """Read from the names or shapes of the weights."""
    CONFIG = "config"
    """Read from a configuration file beside or inside the checkpoint."""
    TABLE = "table"
    """No file holds it; it is what the family's published models use."""
    ASSUMED = "assumed"
    """No file and no table holds it; the likeliest value, to be checked by the user."""
    GIVEN = "given"
    """Said by the user."""


@dataclass(frozen=True)
class Preprocessing:
    """The preparation of an image: resize to ``image_size / crop``, crop the centre, scale to [0, 1], normalize."""

    mean: tuple[float, ...]
    """One entry per channel, in the order of ``channel_order``; another scale of the pixels is in it, as in ``std``."""
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    """``bicubic``, ``bilinear``, ``lanczos`` or ``nearest``."""
    crop: float = 0.9
    """Share of the resized image's side that the centre crop keeps; above 1, the image is padded."""
    channel_order: str = "rgb"
    """``rgb`` or ``bgr``: the order in which the model wants the channels."""
    crop_mode: str = "center"
    """Side that is resized: ``center``: the short one; ``squash``: both; ``border``: the long one, ``mean`` around."""
    crop_offset: str = "round"
    """Rounding of an odd margin: ``round`` (timm), ``floor`` (transformers), ``ceil`` (``Pil``, padding)."""
    exif: bool = True
    """Whether an image is rotated as its EXIF tag says: transformers' loader does, timm's does not."""
    transparency: str = "white"
    """``white``: laid over white; ``dropped``: the alpha channel is ignored, as timm and transformers do."""
    resizer: str = "pillow"
    """Library that resizes: ``pillow``, or ``torch`` as transformers' classes that need torchvision."""


@dataclass(frozen=True)
class BlockWidths:
    """The widths of one transformer block, and the tokens that it merges."""

    heads: int
    """Heads of attention; 0 where attention has none, as MobileViT v2's."""
    head_width: int
    """Channels of a head."""
    mlp: int
    """Units of the MLP's hidden layer."""
    merge: int = 0
    """Tokens that the block merges into others, between attention and MLP."""


@dataclass(frozen=True)
class ModelSpec:
    """A model as its checkpoint describes it: enough to build the module that the weights fit, and to feed it.

    The per-stage tuples have one entry for a plain (columnar) transformer and one per stage for PiT, Swin and
    MobileViT.
    """

    family: str
    """``vit``, ``beit``, ``pit``, ``mobilevit``, ``mobilevitv2`` or ``swin``: a key of the families' table."""
    variant: str
    """The published name, such as ``DeiT-S/16 distilled``, or ``custom …``."""
    naming: str
    """The library whose names the weights have: ``timm``, ``huggingface``, ``google``, ``cvnets``, ``naver``, …"""
    image_size: tuple[int, int]
    """Height and width in pixels."""
    in_channels: int
    classes: int
    """0 for a headless encoder, which exports as a feature extractor."""
    widths: tuple[int, ...]
    """Channels of a token."""
    depths: tuple[int, ...]
    """Transformer blocks."""
    heads: tuple[int, ...]
    mlp_ratios: tuple[float, ...]
    """Width of the MLP's hidden layer divided by that of a token."""
    patch: int
    """Edge of a patch: in pixels (ViT, BEiT, PiT, Swin), or in positions of the feature map (MobileViT)."""
    tokens: tuple[str, ...]
    """Prefix tokens in order: ``class``, ``distillation``, ``register`` (once each)."""
    norm_eps: float
    """Epsilon of the layer norms."""
    activation: str
    """``gelu`` (exact), ``gelu_tanh``, ``relu`` or another of `vitedge.models.activations.ACTIVATIONS`."""
    preprocessing: Preprocessing
    labels: tuple[str, ...] = ()
    """Names of the classes, or empty."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further settings of the family's builder; the family's module lists the keys, and no other is accepted."""
    blocks: tuple[BlockWidths, ...] = ()
    """One entry per transformer block in order of execution, where pruning or merging made blocks differ within a
    stage; empty: all blocks are as ``widths``, ``heads`` and ``mlp_ratios`` say of their stage."""
    origins: Mapping[str, Origin] = field(default_factory=dict)
    """Field name (``preprocessing.mean`` and ``options.KEY`` included) to the source of its value."""
    notes: tuple[str, ...] = ()
    """Remarks for the user: weights dropped on purpose, assumptions to check."""


@dataclass(frozen=True)
class CheckpointIdentity:
    """The checkpoint that an artifact was made from."""

    source: str
    """The path, or the name on the hub."""
    sha256: str
    size: int
    weight_set: str
    """Name of the set of weights that was used, where the file holds several."""


@dataclass(frozen=True)
class Step:
    """A change of the model itself, such as pruning, that its weights went through."""

    verb: str
    """``prune``."""
    source: CheckpointIdentity
    """The weights before it."""
    recipe: Mapping[str, Any]
    """What was asked for, as plain values."""
    result: Mapping[str, Any]
    """What was done, as plain values."""
