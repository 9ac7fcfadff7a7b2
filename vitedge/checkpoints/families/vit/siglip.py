# SPDX-License-Identifier: Apache-2.0
"""SigLIP's image encoder of transformers, in the names of timm's ViT with an attention pooling."""

from __future__ import annotations

from vitedge.checkpoints.families.attention import join_projections
from vitedge.checkpoints.families.family import Converted, Hints, State
from vitedge.checkpoints.families.renaming import Rule, rename

NAME = "huggingface-siglip"
"""`Naming.name` of these weights."""

_KIND = r"\.(weight|bias)"
_MODEL = r"(?:vision_model\.)?"
_BLOCK = _MODEL + r"encoder\.layers\.(\d+)\."
_POOL = _MODEL + r"head\."
SIGNATURE = (
    r"(vision_model\.)?embeddings\.patch_embedding\.bias",
    r"(vision_model\.)?embeddings\.position_embedding\.weight",
    r"(vision_model\.)?post_layernorm\.weight",
    r"(vision_model\.)?encoder\.layers\.\d+\.self_attn\.q_proj\.weight",
)
_RULES: tuple[Rule, ...] = (
    (_MODEL + r"embeddings\.patch_embedding" + _KIND, r"patch_embed.proj.\1"),
    (_MODEL + r"embeddings\.position_embedding\.weight", "pos_embed"),
    (_MODEL + r"post_layernorm" + _KIND, r"norm.\1"),
    (_BLOCK + r"layer_norm([12])" + _KIND, r"blocks.\1.norm\2.\3"),
    (_BLOCK + r"self_attn\.([qkv])_proj" + _KIND, r"blocks.\1.attn.\2.\3"),
    (_BLOCK + r"self_attn\.out_proj" + _KIND, r"blocks.\1.attn.proj.\2"),
    (_BLOCK + r"mlp\.fc([12])" + _KIND, r"blocks.\1.mlp.fc\2.\3"),
    (_POOL + "probe", "attn_pool.latent"),
    (_POOL + r"attention\.in_proj_(weight|bias)", r"attn_pool.qkv.\1"),
    (_POOL + r"attention\.out_proj" + _KIND, r"attn_pool.proj.\1"),
    (_POOL + "layernorm" + _KIND, r"attn_pool.norm.\1"),
    (_POOL + r"mlp\.fc([12])" + _KIND, r"attn_pool.mlp.fc\1.\2"),
    (r"classifier" + _KIND, r"head.\1"),
)
_DROPS = {
    r"text_model\..*|logit_(scale|bias)": "the text tower and its temperature do not see the image",
    _MODEL + r"embeddings\.position_ids": "position numbers, which are counted anew",
}
_UNREAD = {_POOL + r".*": "no classifier reads the attention pooling: it takes the mean of the patches"}


def convert(state: State, _hints: Hints) -> Converted:
    """Converts the encoder, with its attention pooling or with the classifier on the mean of its patches.

    Raises:
        WeightsMismatch: a weight that SigLIP does not have, or one part of a joined projection without the others.
    """
    unread = _UNREAD if "classifier.weight" in state else {}
    renamed = rename(state, _RULES, {**_DROPS, **unread}, "Hugging Face SigLIP")
    weights = join_projections(renamed.state)
    weights["pos_embed"] = weights["pos_embed"][None]
    for kind in ("weight", "bias"):
        if f"attn_pool.qkv.{kind}" in weights:
            joined = weights.pop(f"attn_pool.qkv.{kind}")
            width = len(joined) // 3
            weights[f"attn_pool.q.{kind}"], weights[f"attn_pool.kv.{kind}"] = joined[:width], joined[width:]
    return Converted(weights, renamed.dropped)
