"""Fields of `config.json` with the same meaning in all parts, and functions that normalize their values."""

from typing import Any

from internvl_edge.export.models.families.fields import Field, harmless, only

CONFIG_FILE = "config.json"

LIBRARY = harmless(
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
"""Fields that transformers writes into every config: origin, types, hints for speed, values for initialization."""

TRAINING = harmless(
    *("attention_dropout", "attention_probs_dropout_prob", "hidden_dropout", "hidden_dropout_prob", "dropout"),
    *("drop_path_rate", "projection_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "classifier_dropout"),
    *("label_smoothing", "loss_reduction", "loss_type"),
)
"""Fields of training; dropout of any kind is inactive outside of training."""

TIES = harmless("tie_word_embeddings")
"""A stored head is used with any value of this field; a missing head is the embedding table (MODEL.md T1)."""

QUANTIZED_STORAGE = harmless("quantization_config", "_pre_quantization_dtype", "compression_config")
"""The types of the tensors show how they are stored; a needed tensor that is not float is refused by name."""

MIXTURE = harmless(
    *("capacity_factor", "eval_capacity_factor", "laux_allreduce", "moe_coeff_ratio", "moe_intermediate_size"),
    *("moe_output_scale", "noisy_gate_policy", "num_experts", "num_routed_experts", "num_shared_experts"),
    *("shared_expert_intermediate_size", "use_residual", "use_rts", "use_weighted_residual", "ep_size"),
    *("moe_config", "moe_routed_expert_jitter", "weighted_residual_type", "use_tutel", "jitter_epsilon"),
)
"""Settings of a mixture of experts, which files of released models have with the mixture turned off."""

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
"""Settings of the search and length of captions, which callers choose at run time."""

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
"""Generation settings that change the scores of tokens; only their neutral values are supported."""

OF_NO_TEXT = harmless(*SCORES, *SEARCH, "bos_token_id", "eos_token_id", "pad_token_id")
"""The same fields in a part that generates no text, where they are harmless."""


def token_ids(value: Any) -> tuple[int | str, ...]:
    """Return the distinct token ids of a number, a text, or a list of either; a text of digits is a number.

    Raises:
        ValueError: the value has another form.
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
    """Return the side of a square size, which may also be written as ``[448, 448]``.

    Raises:
        ValueError: the two sides differ.
    """
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
        return value[0]
    if isinstance(value, list):
        raise ValueError(f"is {value!r}, which is no square")
    return value
