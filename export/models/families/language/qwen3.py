"""Qwen3: LLaMA's keys, a norm for each head's queries and keys, and a head size of its own (CHAT.md 1, 3)."""

from internvl_edge.export.models.families.fields import Honoured, flag
from internvl_edge.export.models.families.language.family import LanguageFamily, biases_of_attention
from internvl_edge.export.models.families.language.qwen2 import QWEN2

QWEN3 = LanguageFamily(
    name="qwen3",
    architecture="Qwen3ForCausalLM",
    defaults={**QWEN2.defaults, "head_dim": 128, "attention_bias": False},
    fields={**QWEN2.fields, "attention_bias": Honoured("attention_bias", flag)},
    rope_types=("linear", "dynamic"),
    switches=lambda fields: {"qk_norm": True, **biases_of_attention(fields)},
)
