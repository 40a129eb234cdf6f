"""InternLM2 and InternLM2.5: keys of their own, and one matrix with the rows of each group of heads (CHAT.md 3)."""

from internvl_edge.export.models.families.fields import Honoured, flag
from internvl_edge.export.models.families.language.family import LanguageFamily, biases_of_attention
from internvl_edge.export.models.families.language.llama import LLAMA

_LAYER = r"(model\.layers\.\d+\.)"

INTERNLM2 = LanguageFamily(
    name="internlm2",
    architecture="InternLM2ForCausalLM",
    defaults={**LLAMA.defaults, "vocab_size": 103168, "attention_bias": True},
    fields={"bias": Honoured("attention_bias", flag)},
    rope_types=("linear", "dynamic"),
    switches=lambda fields: {"qkv_rows": "grouped", **biases_of_attention(fields)},
    names=(
        (r"model\.tok_embeddings\.", "model.embed_tokens."),
        (r"output\.", "lm_head."),
        (_LAYER + r"attention\.wqkv\.", r"\1self_attn.qkv_proj."),
        (_LAYER + r"attention\.wo\.", r"\1self_attn.o_proj."),
        (_LAYER + r"attention_norm\.", r"\1input_layernorm."),
        (_LAYER + r"ffn_norm\.", r"\1post_attention_layernorm."),
        (_LAYER + r"feed_forward\.w1\.", r"\1mlp.gate_proj."),
        (_LAYER + r"feed_forward\.w3\.", r"\1mlp.up_proj."),
        (_LAYER + r"feed_forward\.w2\.", r"\1mlp.down_proj."),
    ),
)
"""Its config class has biases by default, unlike the files (CHAT.md 2)."""
