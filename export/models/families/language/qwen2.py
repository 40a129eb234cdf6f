"""Qwen2 and Qwen2.5: LLaMA's keys, and biases on queries, keys and values alone (CHAT.md 1, 3)."""

from internvl_edge.export.models.families.fields import Honoured
from internvl_edge.export.models.families.language.family import LanguageFamily

QWEN2 = LanguageFamily(
    name="qwen2",
    architecture="Qwen2ForCausalLM",
    defaults={
        "hidden_size": 4096,
        "num_heads": 32,
        "num_kv_heads": 32,
        "num_layers": 32,
        "intermediate_size": 22016,
        "vocab_size": 151936,
        "eps": 1e-6,
        "max_positions": 32768,
        "window": 4096,
        "window_used": False,
        "window_from": 28,
    },
    fields={"max_window_layers": Honoured("window_from")},
    rope_types=("linear", "dynamic"),
    switches=lambda fields: {"qkv_bias": True},
)
