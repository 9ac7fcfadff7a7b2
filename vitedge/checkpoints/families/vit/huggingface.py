# SPDX-License-Identifier: Apache-2.0
"""ViT, DeiT, ViTMAE and DINOv2 of transformers in timm's names.

``save_pretrained`` writes the names of version 4 (``encoder.layer.0.attention.attention.query``); from version 5 on the
modules themselves have others (``layers.0.attention.q_proj``). Both are read.
"""

from __future__ import annotations

from vitedge.checkpoints.families.attention import join, join_projections
from vitedge.checkpoints.families.family import Converted, Hints, State
from vitedge.checkpoints.families.renaming import Rule, rename
from vitedge.checkpoints.families.vit.pytorch import fold_class_position
from vitedge.errors import WeightsMismatch

_MODEL = r"(?:\w+\.)?"
_LAYER = _MODEL + r"(?:encoder\.)?layers?\.(\d+)\."
_KIND = r"\.(weight|bias)"

_DROPS = {
    _MODEL + r"pooler\.dense" + _KIND: "no head reads the pooler; it follows the class token",
    _MODEL + r"embeddings\.mask_token": "the mask token is for pre-training only",
    r"decoder\..*": "the decoder is for pre-training only",
}
_RULES: tuple[Rule, ...] = (
    (_MODEL + r"embeddings\.cls_token", "cls_token"),
    (_MODEL + r"embeddings\.distillation_token", "dist_token"),
    (_MODEL + r"embeddings\.register_tokens", "reg_token"),
    (_MODEL + r"embeddings\.position_embeddings", "pos_embed"),
    (_MODEL + r"embeddings\.patch_embeddings\.projection" + _KIND, r"patch_embed.proj.\1"),
    (_MODEL + r"layernorm" + _KIND, r"norm.\1"),
    (r"(?:cls_)?classifier" + _KIND, r"head.\1"),
    (r"distillation_classifier" + _KIND, r"head_dist.\1"),
    (_LAYER + r"(?:layernorm_before|norm1)" + _KIND, r"blocks.\1.norm1.\2"),
    (_LAYER + r"(?:layernorm_after|norm2)" + _KIND, r"blocks.\1.norm2.\2"),
    (_LAYER + r"attention\.(?:attention\.query|q_proj)" + _KIND, r"blocks.\1.attn.q.\2"),
    (_LAYER + r"attention\.(?:attention\.key|k_proj)" + _KIND, r"blocks.\1.attn.k.\2"),
    (_LAYER + r"attention\.(?:attention\.value|v_proj)" + _KIND, r"blocks.\1.attn.v.\2"),
    (_LAYER + r"attention\.(?:output\.dense|o_proj)" + _KIND, r"blocks.\1.attn.proj.\2"),
    (_LAYER + r"(?:intermediate\.dense|mlp\.fc1|mlp\.weights_in)" + _KIND, r"blocks.\1.mlp.fc1.\2"),
    (_LAYER + r"(?:output\.dense|mlp\.fc2|mlp\.weights_out|mlp\.down_proj)" + _KIND, r"blocks.\1.mlp.fc2.\2"),
    (_LAYER + r"mlp\.(gate|up)_proj" + _KIND, r"blocks.\1.mlp.\2.\3"),
    (_LAYER + r"layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
)


def convert(state: State, _hints: Hints) -> Converted:
    """Converts the names of transformers to timm's, and joins separate projections.

    Raises:
        WeightsMismatch: a weight that is none of these models', or one part of a joined layer without the others.
    """
    renamed = rename(state, _RULES, _DROPS, "Hugging Face")
    joined = _join_gates(join_projections(renamed.state))
    return Converted(fold_class_position(joined), renamed.dropped)


def _join_gates(state: State) -> State:
    """Joins SwiGLU's two first layers into the one that timm has, the gate first."""
    joined: State = {}
    for name, tensor in state.items():
        gate, up = name.replace(".mlp.up.", ".mlp.gate."), name.replace(".mlp.gate.", ".mlp.up.")
        if gate == up:
            joined[name] = tensor
        elif gate not in state or up not in state:
            raise WeightsMismatch(f"The checkpoint lacks {up if gate in state else gate}, which belongs to {name}.")
        else:
            first = name.replace(".mlp.up.", ".mlp.fc1.").replace(".mlp.gate.", ".mlp.fc1.")
            joined[first] = join((gate, up), (state[gate], state[up]))
    return joined
