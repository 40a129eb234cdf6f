"""Tables of the top-level fields of `config.json`, one for each layout."""

from internvl_edge.export.models.families.common_fields import (
    CONFIG_FILE,
    LIBRARY,
    OF_NO_TEXT,
    QUANTIZED_STORAGE,
    TIES,
    TRAINING,
    square,
)
from internvl_edge.export.models.families.fields import FieldTable, Honoured, flag, harmless, only

INTERNVL = FieldTable(
    CONFIG_FILE,
    {
        **LIBRARY,
        **TRAINING,
        **TIES,
        **QUANTIZED_STORAGE,
        **OF_NO_TEXT,
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

NATIVE = FieldTable(
    CONFIG_FILE,
    {
        **LIBRARY,
        **TRAINING,
        **TIES,
        **QUANTIZED_STORAGE,
        **OF_NO_TEXT,
        "vision_config": Honoured("vision_config"),
        "text_config": Honoured("text_config"),
        "downsample_ratio": Honoured("downsample"),
        "vision_feature_layer": Honoured("select_layer"),
        "vision_feature_select_strategy": only("default", finding="keeps the class token, which the graphs drop"),
        "projector_hidden_act": only("gelu", "gelu_python", finding="is not gelu"),
        **harmless("image_token_id", "image_token_index", "image_seq_length", "video_token_id", "vocab_size"),
    },
)
"""Fields of transformers' own port of a chat model; those of the conversation are harmless."""

CHAT = FieldTable(
    CONFIG_FILE,
    {
        **LIBRARY,
        **TRAINING,
        **TIES,
        **QUANTIZED_STORAGE,
        **OF_NO_TEXT,
        "vision_config": Honoured("vision_config"),
        "llm_config": Honoured("llm_config"),
        "hidden_size": Honoured("hidden_size"),
        "downsample_ratio": Honoured("downsample"),
        "ps_version": Honoured("ps_version"),
        "select_layer": Honoured("select_layer"),
        "force_image_size": Honoured("image_size", square),
        "use_backbone_lora": Honoured("backbone_lora"),
        "pad2square": only(False, finding="pads pictures to squares, which the runtime does not", acceptable=True),
        "use_llm_lora": Honoured("llm_lora"),
        "flash_mode": Honoured("flash", flag),
        **harmless("flash_relative_threshold", "flash_absolute_threshold"),
        **harmless("template", "system_message", "image_fold", "image_token_id", "num_image_token"),
        "dynamic_image_size": Honoured("dynamic", flag),
        "min_dynamic_patch": Honoured("fewest_tiles"),
        "max_dynamic_patch": Honoured("most_tiles"),
        "use_thumbnail": Honoured("thumbnail", flag),
        **harmless("img_context_token_id", "vocab_size", "conv_style", "qllama_config", "moe_config"),
    },
)
"""Fields of the conversation are harmless: they have no effect on the graphs."""
