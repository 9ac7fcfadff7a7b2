# SPDX-License-Identifier: Apache-2.0
"""Building BEiT and the ViT of SimMIM, and moving them to another image size.

Entries of `ModelSpec.options`:

- ``position_embedding``: whether an absolute position embedding is added.
- ``block_bias``, ``shared_bias``: whether every block, or all blocks together, have relative position biases.
- ``qkv_bias``: whether queries and values have a bias; keys never have one.
- ``layer_scale``: whether the residual branches are scaled.
- ``norm``: ``final`` over all tokens, ``pooled`` after pooling, or ``none``.
- ``pool``: ``avg`` over the patches or the class ``token``.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from timm.layers.mlp import Mlp
from timm.models.beit import Beit
from torch import Tensor, nn

from vitedge.checkpoints.families.family import State
from vitedge.models.activations import ACTIVATIONS
from vitedge.models.blocks import set_widths
from vitedge.models.positions import check_multiple, resize_tokens
from vitedge.models.relative_positions import resample_biases
from vitedge.records import ModelSpec, Origin

_PREFIX = 1  # the class token


def build(spec: ModelSpec) -> nn.Module:
    """Builds the timm module of the spec; see `vitedge.models.family.Builder`."""
    # In a dictionary, because timm's annotations are narrower than what it takes.
    settings: dict[str, Any] = {
        "img_size": spec.image_size,
        "patch_size": spec.patch,
        "in_chans": spec.in_channels,
        "num_classes": spec.classes,
        # timm decides by the pooling where the norm is; how it really pools is set below.
        "global_pool": "avg" if spec.options["norm"] == "pooled" else "token",
        "embed_dim": spec.widths[0],
        "depth": spec.depths[0],
        "num_heads": spec.heads[0],
        "mlp_ratio": spec.mlp_ratios[0],
        "qkv_bias": spec.options["qkv_bias"],
        "norm_layer": partial(nn.LayerNorm, eps=spec.norm_eps),
        "init_values": 1.0 if spec.options["layer_scale"] else None,
        "use_abs_pos_emb": spec.options["position_embedding"],
        "use_rel_pos_bias": spec.options["block_bias"],
        "use_shared_rel_pos_bias": spec.options["shared_bias"],
    }
    module = Beit(**settings)
    module.global_pool = spec.options["pool"]
    if spec.options["norm"] == "none":
        module.norm = nn.Identity()
    for part in module.modules():
        if isinstance(part, Mlp):
            part.act = ACTIVATIONS[spec.activation]()
    return set_widths(module, spec).eval()


def resize(state: State, spec: ModelSpec, image_size: tuple[int, int]) -> tuple[State, ModelSpec]:
    """Returns weights and spec at another image size, in pixels (height, width).

    Relative position biases and the position embedding are resampled as timm does it; the entries of the class token
    stay.

    Raises:
        ImpossibleSize: not a multiple of the patch.
    """
    check_multiple(image_size, spec.patch, "patch")
    old, new = _grid(spec.image_size, spec.patch), _grid(image_size, spec.patch)
    resized = dict(state)
    for name, tensor in state.items():
        if name.endswith("relative_position_bias_table"):
            resized[name] = resample_biases(tensor, old, new)
    if "pos_embed" in state:
        resized["pos_embed"] = resize_tokens(state["pos_embed"], old, new, _PREFIX)
    return resized, replace(spec, image_size=image_size, origins={**spec.origins, "image_size": Origin.GIVEN})


def features(module: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns all tokens ``(batch, 1 + patches, width)``, and the pooled features ``(batch, width)``."""
    tokens = module.forward_features(images)  # type: ignore[operator]
    return tokens, module.forward_head(tokens, pre_logits=True)  # type: ignore[operator]


def blocks(spec: ModelSpec) -> tuple[str, ...]:
    """Returns the names of the patch embedding, every block, and the norm where there is one."""
    norm = {"final": ("norm",), "pooled": ("fc_norm",), "none": ()}[spec.options["norm"]]
    return ("patch_embed", *(f"blocks.{block}" for block in range(spec.depths[0])), *norm)


def _grid(image_size: tuple[int, int], patch: int) -> tuple[int, int]:
    return image_size[0] // patch, image_size[1] // patch
