"""LLaMA, with Vicuna, Yi and Nous-Hermes: the keys that all others are renamed to (CHAT.md 1, 3)."""

from internvl_edge.export.models.families.fields import Honoured, flag, only
from internvl_edge.export.models.families.language.family import LanguageFamily, biases_of_attention

LLAMA = LanguageFamily(
    name="llama",
    architecture="LlamaForCausalLM",
    defaults={
        "hidden_size": 4096,
        "num_heads": 32,
        "num_layers": 32,
        "intermediate_size": 11008,
        "vocab_size": 32000,
        "eps": 1e-6,
        "max_positions": 2048,
        "attention_bias": False,
    },
    fields={
        "attention_bias": Honoured("attention_bias", flag),
        "mlp_bias": only(False, finding="adds biases that the graphs have not"),
    },
    rope_types=("linear", "dynamic"),
    switches=biases_of_attention,
)
