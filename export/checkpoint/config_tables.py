"""The tables of `config.json`: what each field of each of its parts means to the compiler."""

from typing import Any

from internvl_edge.export.checkpoint.fields import Field, FieldTable, Honoured, Limited, flag, harmless, only

CONFIG_FILE = "config.json"

_LIBRARY = harmless(
    *("_name_or_path", "name_or_path", "_commit_hash", "architectures", "auto_map", "model_type"),
    *("transformers_version", "torch_dtype", "dtype", "torchscript", "use_bfloat16", "gradient_checkpointing"),
    *("_attn_implementation", "_attn_implementation_internal", "_attn_implementation_autoset", "attn_implementation"),
    *("_flash_attn_2_enabled", "use_flash_attn", "use_flash_attention", "use_cache", "return_dict", "output_past"),
    *("output_attentions", "output_hidden_states", "output_scores", "return_dict_in_generate", "tf_legacy_loss"),
    *("finetuning_task", "id2label", "label2id", "num_labels", "problem_type", "task_specific_params"),
    *("tokenizer_class", "prefix", "is_decoder", "is_encoder_decoder", "add_cross_attention"),
    *("cross_attention_hidden_size", "tie_encoder_decoder", "chunk_size_feed_forward", "sep_token_id"),
    *("decoder_start_token_id", "base_model_tp_plan", "base_model_pp_plan", "unsloth_version", "unsloth_fixed"),
    *("initializer_range", "initializer_factor", "layer_scale_init_value", "_diffusers_version", "pretraining_tp"),
)
"""Fields that the library writes into every config: origin, types, hints of speed, values at initialization."""

_TRAINING = harmless(
    *("attention_dropout", "attention_probs_dropout_prob", "hidden_dropout", "hidden_dropout_prob", "dropout"),
    *("drop_path_rate", "projection_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "classifier_dropout"),
    *("label_smoothing", "loss_reduction", "loss_type"),
)
"""Dropout of any kind is inactive outside training."""

_TIES = harmless("tie_word_embeddings")
"""A stored head stands whatever this says; a head that is not stored is the embedding table (MODEL.md T1)."""

_QUANTIZED_STORAGE = harmless("quantization_config", "_pre_quantization_dtype", "compression_config")
"""The tensors themselves tell how they are stored: a needed one that is no float is refused by name."""

SEARCH = harmless(
    *("max_length", "min_length", "max_new_tokens", "min_new_tokens", "do_sample", "temperature", "top_k", "top_p"),
    *("min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "num_beams", "num_return_sequences", "max_time"),
    *(
        "renormalize_logits",
        "remove_invalid_values",
        "cache_implementation",
        "num_assistant_tokens",
        "trust_remote_code",
    ),
)
"""How captions are searched, and how long they are, is the caller's choice at run time."""

_NOT_IN_CAPTIONS = "would change captions, which are generated without it"
SCORES: dict[str, Field] = {
    name: only(*values, finding=_NOT_IN_CAPTIONS, acceptable=True)
    for name, values in {
        "repetition_penalty": (1,),
        "encoder_repetition_penalty": (1,),
        "length_penalty": (1,),
        "diversity_penalty": (0,),
        "guidance_scale": (1,),
        "num_beam_groups": (1,),
        "penalty_alpha": (0,),
        "no_repeat_ngram_size": (0,),
        "encoder_no_repeat_ngram_size": (0,),
        "early_stopping": (False,),
        "bad_words_ids": ([],),
        "force_words_ids": ([],),
        "constraints": ([],),
        "suppress_tokens": ([],),
        "begin_suppress_tokens": ([],),
        "forced_decoder_ids": ([],),
        "forced_bos_token_id": (),
        "forced_eos_token_id": (),
        "exponential_decay_length_penalty": (),
        "sequence_bias": ({}, []),
        "watermarking_config": (),
        "stop_strings": ([],),
    }.items()
}
"""Generation settings that change a token's score, by their neutral values."""

_OF_NO_TEXT = harmless(*SCORES, *SEARCH, "bos_token_id", "eos_token_id", "pad_token_id")
"""The same fields in a part that generates no text."""


def token_ids(value: Any) -> tuple[int | str, ...]:
    """Return token ids that are a number, a text, or a list of either, each once; digits count as a number.

    Raises:
        ValueError: the value is none of them.
    """
    entries = value if isinstance(value, list) else [value]
    found: list[int | str] = []
    for entry in entries:
        text = isinstance(entry, str) and entry.strip() != ""
        if isinstance(entry, bool) or not (isinstance(entry, int) or text):
            raise ValueError(f"is {value!r}, which is no token id")
        known = int(entry) if isinstance(entry, int) or entry.strip().isdecimal() else entry
        if known not in found:
            found.append(known)
    return tuple(found)


def square(value: Any) -> Any:
    """Return one side of a size that may be written for both sides, as ``[448, 448]``.

    Raises:
        ValueError: the two sides differ.
    """
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
        return value[0]
    if isinstance(value, list):
        raise ValueError(f"is {value!r}, which is no square")
    return value


_ERF_GELU = ("gelu", "gelu_python")


def _activation(value: Any) -> Any:
    """Return ``gelu`` for every name of the exact GELU."""
    return "gelu" if value in _ERF_GELU else value


_MIXTURE = harmless(
    *("capacity_factor", "eval_capacity_factor", "laux_allreduce", "moe_coeff_ratio", "moe_intermediate_size"),
    *("moe_output_scale", "noisy_gate_policy", "num_experts", "num_routed_experts", "num_shared_experts"),
    *("shared_expert_intermediate_size", "use_residual", "use_rts", "use_weighted_residual", "ep_size"),
    *("moe_config", "moe_routed_expert_jitter", "weighted_residual_type", "use_tutel", "jitter_epsilon"),
)
"""Settings of a mixture of experts, which released towers carry along switched off."""

VISION = FieldTable(
    CONFIG_FILE,
    {
        **_LIBRARY,
        **_TRAINING,
        **_TIES,
        **_QUANTIZED_STORAGE,
        **_OF_NO_TEXT,
        **_MIXTURE,
        "hidden_size": Honoured("hidden_size"),
        "num_attention_heads": Honoured("num_heads"),
        "num_hidden_layers": Honoured("num_layers"),
        "intermediate_size": Honoured("intermediate_size"),
        "patch_size": Honoured("patch_size", square),
        "image_size": Honoured("image_size", square),
        "norm_type": Honoured("norm_type"),
        "layer_norm_eps": Honoured("eps"),
        "layer_norm_epsilon": Honoured("eps"),
        "rms_norm_eps": Honoured("eps"),
        "norm_eps": Honoured("eps"),
        "qkv_bias": Honoured("qkv_bias", flag),
        "attention_bias": Honoured("qkv_bias", flag),
        "qk_normalization": Honoured("qk_norm", flag),
        "use_qk_norm": Honoured("qk_norm", flag),
        "hidden_act": Honoured("hidden_act", _activation),
        "head_dim": Honoured("head_dim"),
        "num_channels": Limited(lambda value: value == 3, "colour channels instead of 3"),
        "num_key_value_heads": Honoured("key_value_heads"),
        "use_moe": only(False, finding="is a mixture of experts, which the graphs have not"),
        "use_mean_pooling": only(True, finding="adds a norm behind the tower, which the graphs have not"),
        "use_absolute_position_embeddings": only(True, finding="leaves out the position table, which the graphs have"),
        "use_mask_token": only(True, False),
        "pruned_heads": only({}, finding="are heads that the graphs have"),
        **harmless("force_image_size"),
    },
)
"""The stored position table tells the picture size; ``force_image_size`` belongs to the models around the tower."""

ROPE = FieldTable(
    CONFIG_FILE,
    {
        "rope_type": Honoured("kind"),
        "type": Honoured("kind"),
        "rope_theta": Honoured("theta"),
        "factor": Honoured("factor"),
        "partial_rotary_factor": only(1, finding="rotates a part of each head, the graphs rotate all of it"),
    },
)
"""``rope_parameters`` of transformers 5, and ``rope_scaling`` of earlier versions."""

_NO_BIAS = only(False, finding="adds biases that the graphs have not")

QLLAMA = FieldTable(
    CONFIG_FILE,
    {
        **_LIBRARY,
        **_TRAINING,
        **_TIES,
        **_QUANTIZED_STORAGE,
        **SEARCH,
        **SCORES,
        "hidden_size": Honoured("hidden_size"),
        "num_attention_heads": Honoured("num_heads"),
        "num_hidden_layers": Honoured("num_layers"),
        "intermediate_size": Honoured("intermediate_size"),
        "vocab_size": Honoured("vocab_size"),
        "rms_norm_eps": Honoured("eps"),
        "layer_norm_eps": Honoured("eps"),
        "norm_eps": Honoured("eps"),
        "max_position_embeddings": Honoured("max_positions"),
        "num_query_token": Honoured("num_queries"),
        "rope_theta": Honoured("theta"),
        "rotary_emb_base": Honoured("theta"),
        "rope_scaling": Honoured("rope_scaling"),
        "rope_parameters": Honoured("rope_parameters"),
        "num_key_value_heads": Honoured("key_value_heads"),
        "head_dim": Honoured("head_dim"),
        "sliding_window": Honoured("sliding_window"),
        "use_sliding_window": Honoured("use_sliding_window"),
        "bos_token_id": Honoured("bos", token_ids),
        "eos_token_id": Honoured("eos", token_ids),
        "pad_token_id": Honoured("pad", token_ids),
        "hidden_act": only("silu", "swish", finding="is not silu"),
        "attention_bias": _NO_BIAS,
        "mlp_bias": _NO_BIAS,
        "bias": _NO_BIAS,
        "qkv_bias": _NO_BIAS,
        "use_bias": _NO_BIAS,
        "use_qk_norm": only(False, finding="normalizes queries and keys, which the graphs do not"),
        "partial_rotary_factor": only(1, finding="rotates a part of each head, the graphs rotate all of it"),
        "rotary_pct": only(1, finding="rotates a part of each head, the graphs rotate all of it"),
        "layer_types": Limited(
            lambda value: isinstance(value, list) and set(value) <= {"full_attention"},
            "are attentions of other kinds than full_attention",
        ),
        "pruned_heads": only({}, finding="are heads that the graphs have"),
        "rope_interleaved": only(False, finding="pairs neighbouring channels, the graphs pair the two halves"),
        **harmless("cross_attention_frequency", "vision_hidden_size", "max_window_layers", "max_sequence_length"),
    },
)
"""``cross_attention_frequency`` is overwritten by the top level's on loading (MODEL.md T2)."""

INTERNVL = FieldTable(
    CONFIG_FILE,
    {
        **_LIBRARY,
        **_TRAINING,
        **_TIES,
        **_QUANTIZED_STORAGE,
        **_OF_NO_TEXT,
        "vision_config": Honoured("vision_config"),
        "qllama_config": Honoured("qllama_config"),
        "clip_embed_dim": Honoured("embed_dim"),
        "attn_pool_num_heads": Honoured("pool_heads"),
        "num_query_token": Honoured("num_queries"),
        "cross_attention_frequency": Honoured("frequency"),
        "force_image_size": Honoured("image_size", square),
        "use_backbone_lora": Honoured("backbone_lora"),
        "use_qllama_lora": Honoured("qllama_lora"),
        **harmless("hidden_size", "logit_scale_init_value"),
    },
)
"""``hidden_size`` repeats that of ``qllama_config``."""

CHAT = FieldTable(
    CONFIG_FILE,
    {
        **_LIBRARY,
        **_TRAINING,
        **_TIES,
        **_QUANTIZED_STORAGE,
        **_OF_NO_TEXT,
        "vision_config": Honoured("vision_config"),
        "llm_config": Honoured("llm_config"),
        "hidden_size": Honoured("hidden_size"),
        "downsample_ratio": Honoured("downsample"),
        "ps_version": Honoured("ps_version"),
        "select_layer": Honoured("select_layer"),
        "force_image_size": Honoured("image_size", square),
        "use_backbone_lora": Honoured("backbone_lora"),
        "pad2square": only(False, finding="pads pictures to squares, which the runtime does not", acceptable=True),
        **harmless("use_llm_lora", "template", "system_message", "image_fold", "image_token_id", "num_image_token"),
        "dynamic_image_size": Honoured("dynamic", flag),
        "min_dynamic_patch": Honoured("fewest_tiles"),
        "max_dynamic_patch": Honoured("most_tiles"),
        "use_thumbnail": Honoured("thumbnail", flag),
        **harmless("img_context_token_id", "vocab_size", "conv_style", "qllama_config", "moe_config"),
    },
)
"""Fields of the conversation and of its language model, which no graph holds, do not bear on tower and connector."""

LANGUAGE_MODEL = FieldTable(CONFIG_FILE, {"hidden_size": Honoured("hidden_size")}, others="harmless")
"""``llm_config``: no graph holds the language model; the connector needs its width alone."""
