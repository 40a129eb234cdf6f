"""Phi-3: stacked rows of queries, keys and values and of gate and up, and angles with two sets of factors."""

from internvl_edge.export.models.families.fields import Honoured, only
from internvl_edge.export.models.families.language.family import LanguageFamily

PHI3 = LanguageFamily(
    name="phi3",
    architecture="Phi3ForCausalLM",
    defaults={
        "hidden_size": 3072,
        "num_heads": 32,
        "num_layers": 32,
        "intermediate_size": 8192,
        "vocab_size": 32064,
        "eps": 1e-5,
        "max_positions": 4096,
        "original": 4096,
    },
    fields={
        "original_max_position_embeddings": Honoured("original"),
        "attention_bias": only(False, finding="adds biases that the graphs have not"),
    },
    rope_types=("su", "longrope", "yarn"),
    switches=lambda fields: {"qkv_rows": "stacked", "stacked_mlp": True},
)
"""Its ``yarn`` is read as its own code does (CHAT.md 4.8)."""
