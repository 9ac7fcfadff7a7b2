# SPDX-License-Identifier: Apache-2.0
"""The keys of transformers: those of every configuration, and those of each class whose weights are read.

Complete for transformers 4 and 5; a test reads the fields of the classes themselves and fails at a key that is not
here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vitedge.checkpoints.keys import facts
from vitedge.checkpoints.keys.meaning import (
    Irrelevant,
    Only,
    Read,
    Table,
    is_count,
    is_label_mapping,
    is_name,
    is_size,
)

_TRAINING = Irrelevant("used in training alone")
_WEIGHTS = Irrelevant("first values of weights, which the file replaces")
_LIBRARY = Irrelevant("the library's own bookkeeping")
_OUTPUTS = Irrelevant("which outputs the library returns; the export has its own")
_PRETRAINING = Irrelevant("of the decoder for pretraining, which is dropped")
_SEGMENTATION = Irrelevant("of the head for segmentation, which is dropped")
_POOLER = Irrelevant("of the pooler, which no head reads")
_SHAPES = Irrelevant("told by the shapes of the weights")
_TEXT = Irrelevant("of models of text")

GENERIC: Table = {
    "model_type": Read(is_name),
    "architectures": _LIBRARY,
    "auto_map": Only(({},)),
    "transformers_version": _LIBRARY,
    "transformers_weights": _LIBRARY,
    "transformers.js_config": _LIBRARY,
    "name_or_path": _LIBRARY,
    "dtype": _LIBRARY,
    "torch_dtype": _LIBRARY,
    "attn_implementation": _LIBRARY,
    "experts_implementation": _LIBRARY,
    "torchscript": _LIBRARY,
    "use_bfloat16": _LIBRARY,
    "tf_legacy_loss": _LIBRARY,
    "gradient_checkpointing": _TRAINING,
    "problem_type": Irrelevant("of the loss"),
    "finetuning_task": _LIBRARY,
    "task_specific_params": _LIBRARY,
    "output_attentions": _OUTPUTS,
    "output_hidden_states": _OUTPUTS,
    "return_dict": _OUTPUTS,
    "use_return_dict": _OUTPUTS,
    "tie_last_hidden_states": _OUTPUTS,
    "chunk_size_feed_forward": Irrelevant("a part of the tokens at a time gives the same sums"),
    "id2label": Read(is_label_mapping),
    "label2id": Irrelevant("id2label turned around"),
    "num_labels": facts.CLASSES,
    "per_layer_config": Only(({},)),
    "pruned_heads": Only(({},)),
    "quantization_config": Only(({},)),
    "compression_config": Only(({},)),
    "adapter_config": Only(({},)),
    **dict.fromkeys(
        (
            *("is_encoder_decoder", "is_decoder", "add_cross_attention", "cross_attention_hidden_size"),
            *("tie_encoder_decoder", "tie_word_embeddings", "tokenizer_class", "prefix", "max_length", "min_length"),
            *("do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty", "temperature"),
            *("top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size"),
            *("encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores"),
            *("return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values"),
            *("exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens", "bos_token_id"),
            *("pad_token_id", "eos_token_id", "sep_token_id", "decoder_start_token_id", "use_cache"),
        ),
        _TEXT,
    ),
    # what the hub and training scripts add
    **dict.fromkeys(
        (
            *("library_name", "license", "license_name", "license_link", "tags", "pipeline_tag", "datasets"),
            *("metrics", "base_model", "widget", "description", "author", "language", "model_name", "model_id"),
            *("date", "created_at", "training_args", "feature_extractor_type", "image_processor_type"),
        ),
        Irrelevant("about the model, for readers and the hub"),
    ),
}
"""Keys of every configuration."""

_BACKBONE: Table = {
    **dict.fromkeys(
        ("out_features", "out_indices", "stage_names", "reshape_hidden_states", "apply_layernorm"), _OUTPUTS
    )
}
_TRANSFORMER: Table = {
    "num_channels": facts.CHANNELS,
    "hidden_act": facts.HF_ACTIVATION,
    "hidden_dropout_prob": _TRAINING,
    "attention_probs_dropout_prob": _TRAINING,
    "initializer_range": _WEIGHTS,
    "layer_norm_eps": facts.EPS,
}
_COLUMN: Table = {
    **_TRANSFORMER,
    "hidden_size": facts.WIDTH,
    "num_hidden_layers": facts.DEPTHS,
    "num_attention_heads": facts.HEADS,
    "image_size": facts.GRID,
    "patch_size": facts.PATCH,
}
_VIT: Table = {
    **_COLUMN,
    "intermediate_size": facts.HIDDEN,
    "qkv_bias": facts.option("qkv_bias"),
    "encoder_stride": _PRETRAINING,
    "pooler_output_size": _POOLER,
    "pooler_act": _POOLER,
}
_CLIP_VISION: Table = {
    **_COLUMN,
    "intermediate_size": facts.HIDDEN,
    "projection_dim": Irrelevant("told by the shape of the projection"),
    "num_labels": Irrelevant("the head is the projection, and has no classes"),
    "attention_dropout": _TRAINING,
    "dropout": _TRAINING,
    "initializer_factor": _WEIGHTS,
    "logit_scale_init_value": _WEIGHTS,
}
_SIGLIP: Table = {
    **_COLUMN,
    "intermediate_size": facts.HIDDEN,
    "attention_dropout": _TRAINING,
    "vision_use_head": Irrelevant("told by the names of the weights; a classifier reads the mean of the patches"),
    "initializer_factor": _WEIGHTS,
}
_MAE: Table = {
    **_VIT,
    **dict.fromkeys(
        (
            *("decoder_num_attention_heads", "decoder_hidden_size", "decoder_num_hidden_layers"),
            *("decoder_intermediate_size", "norm_pix_loss", "mask_ratio"),
        ),
        _PRETRAINING,
    ),
}
_DINOV2: Table = {
    **_COLUMN,
    **_BACKBONE,
    "mlp_ratio": facts.DINO_RATIO,
    "qkv_bias": facts.option("qkv_bias"),
    "layerscale_value": _WEIGHTS,
    "drop_path_rate": _TRAINING,
    "use_swiglu_ffn": facts.SWIGLU,
    "use_mask_token": _PRETRAINING,
}
_BEIT: Table = {
    **_COLUMN,
    **_BACKBONE,
    "intermediate_size": facts.HIDDEN,
    "vocab_size": _PRETRAINING,
    "use_mask_token": _PRETRAINING,
    "use_absolute_position_embeddings": facts.option("position_embedding"),
    "use_relative_position_bias": facts.option("block_bias"),
    "use_shared_relative_position_bias": facts.option("shared_bias"),
    "layer_scale_init_value": facts.LAYER_SCALE,
    "drop_path_rate": _TRAINING,
    "use_mean_pooling": facts.MEAN_POOLING,
    **dict.fromkeys(
        (
            *("pool_scales", "use_auxiliary_head", "auxiliary_loss_weight", "auxiliary_channels"),
            *("auxiliary_num_convs", "auxiliary_concat_input", "semantic_loss_ignore_index", "add_fpn"),
            "segmentation_indices",
        ),
        _SEGMENTATION,
    ),
}
_SWIN: Table = {
    **_TRANSFORMER,
    **_BACKBONE,
    "image_size": facts.IMAGE_SIZE,
    "patch_size": facts.PATCH,
    "embed_dim": facts.WIDTH,
    "hidden_size": facts.LAST_WIDTH,
    "depths": facts.DEPTHS,
    "num_layers": facts.STAGES,
    "num_heads": facts.HEADS,
    "window_size": facts.WINDOW,
    "mlp_ratio": facts.RATIO,
    "qkv_bias": facts.option("qkv_bias"),
    "drop_path_rate": _TRAINING,
    "path_norm": Irrelevant("no version of the library reads it"),
    "use_absolute_embeddings": Only((False,)),
    "encoder_stride": _PRETRAINING,
}
_CONVOLUTIONAL: Table = {
    "num_channels": facts.CHANNELS,
    "image_size": Read(is_size),
    "patch_size": facts.PATCH,
    "expand_ratio": facts.EXPANSION,
    "hidden_act": facts.HF_ACTIVATION,
    "conv_kernel_size": facts.KERNEL,
    "output_stride": Read(is_count),
    "classifier_dropout_prob": _TRAINING,
    "initializer_range": _WEIGHTS,
    "layer_norm_eps": facts.EPS,
    "aspp_out_channels": _SEGMENTATION,
    "atrous_rates": _SEGMENTATION,
    "aspp_dropout_prob": _SEGMENTATION,
    "semantic_loss_ignore_index": _SEGMENTATION,
}
_MOBILEVIT: Table = {
    **_CONVOLUTIONAL,
    "hidden_sizes": facts.WIDTHS,
    "neck_hidden_sizes": facts.NECKS,
    "num_attention_heads": facts.HEADS,
    "mlp_ratio": facts.RATIO,
    "hidden_dropout_prob": _TRAINING,
    "attention_probs_dropout_prob": _TRAINING,
    "qkv_bias": Irrelevant("told by the names of the weights; zeros stand for biases that are not there"),
}
_MOBILEVITV2: Table = {
    **_CONVOLUTIONAL,
    "n_attn_blocks": facts.DEPTHS,
    "base_attn_unit_dims": _SHAPES,
    "width_multiplier": facts.MULTIPLIER,
    "ffn_multiplier": facts.RATIO,
    "attn_dropout": _TRAINING,
    "ffn_dropout": _TRAINING,
}


@dataclass(frozen=True)
class Class:
    """One configuration class of transformers."""

    family: str
    table: Table
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Values of the keys that no weight tells, where a configuration leaves them out."""


_PLAIN: Mapping[str, Any] = {"num_attention_heads": 12, "hidden_act": "gelu", "layer_norm_eps": 1e-12}
_DINO: Mapping[str, Any] = {**_PLAIN, "layer_norm_eps": 1e-6}
_CLIP: Mapping[str, Any] = {**_PLAIN, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_POOLING: Mapping[str, Any] = {**_PLAIN, "use_mean_pooling": True}
_MOBILE: Mapping[str, Any] = {"patch_size": 2, "output_stride": 32, "layer_norm_eps": 1e-5, "image_size": 256}

CLASSES: Mapping[str, Class] = {
    "vit": Class("vit", _VIT, _PLAIN),
    "deit": Class("vit", _VIT, _PLAIN),
    "vit_mae": Class("vit", _MAE, _PLAIN),
    "vit_msn": Class("vit", _VIT, _DINO),
    "dinov2": Class("vit", _DINOV2, _DINO),
    "dinov2_with_registers": Class("vit", {**_DINOV2, "num_register_tokens": facts.REGISTERS}, _DINO),
    "clip_vision_model": Class("vit", _CLIP_VISION, _CLIP),
    "siglip_vision_model": Class("vit", _SIGLIP, {**_DINO, "hidden_act": "gelu_pytorch_tanh"}),
    "beit": Class("beit", _BEIT, _POOLING),
    "data2vec-vision": Class("beit", _BEIT, _POOLING),
    "swin": Class("swin", _SWIN, {"hidden_act": "gelu", "layer_norm_eps": 1e-5, "image_size": 224}),
    "mobilevit": Class("mobilevit", _MOBILEVIT, {**_MOBILE, "hidden_act": "silu", "num_attention_heads": 4}),
    "mobilevitv2": Class("mobilevitv2", _MOBILEVITV2, {**_MOBILE, "hidden_act": "swish"}),
}
"""``model_type`` to its class."""

FOREIGN: Table = dict.fromkeys(
    (key for entry in CLASSES.values() for key in entry.table), Irrelevant("of another class, and not read by this one")
)
"""Keys of all these classes: one that a class does not have is kept by the library, and changes nothing."""
