"""The shapes of the released models, by which the number of values in a checkpoint is the published one (CHAT.md 1)."""

import math
from typing import Any

import pytest

from internvl_edge.export.blockwise.sources import stored_shapes
from internvl_edge.export.checkpoint.config.config_json import config_from_json
from internvl_edge.export.models.config import LanguageConfig

SMALL = {
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "intermediate_size": 4096,
    "image_size": 448,
    "norm_type": "layer_norm",
    "qkv_bias": True,
    "qk_normalization": False,
}
LARGE = {"num_hidden_layers": 45, "image_size": 448}
"""Tower of 6B: the rest is as its config class has it."""


def llm(name: str, layers: int, width: int, hidden: int, heads: int, kv_heads: int, vocabulary: int) -> dict[str, Any]:
    """Return the fields of a language model that its shapes depend on."""
    return {
        "architectures": [f"{name}ForCausalLM"],
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
    } | ({"bias": False} if name == "InternLM2" else {})


@pytest.mark.parametrize(
    ("tower", "language", "head_dim", "billions"),
    [
        (SMALL, llm("Qwen2", 24, 896, 4864, 14, 2, 151674), 64, 0.94),
        (SMALL, llm("Qwen2", 36, 2048, 11008, 16, 2, 151674), 128, 3.71),
        (SMALL, llm("InternLM2", 32, 4096, 14336, 32, 8, 92553), 128, 8.08),
        (LARGE, llm("InternLM2", 48, 6144, 16384, 48, 8, 92553), 128, 25.5),
        (LARGE, llm("Qwen2", 64, 5120, 27648, 40, 8, 151674), 128, 38.4),
        (LARGE, llm("Qwen2", 80, 8192, 29568, 64, 8, 151674), 128, 78.4),
        (SMALL, llm("Qwen3", 28, 1024, 3072, 16, 8, 151936), 128, 1.1),
        (SMALL, llm("Qwen3", 28, 2048, 6144, 16, 8, 151936), 128, 2.3),
        (SMALL, llm("Qwen3", 36, 2560, 9728, 32, 8, 151936), 128, 4.7),
        (SMALL, llm("Qwen3", 36, 4096, 12288, 32, 8, 151936), 128, 8.5),
        (SMALL, llm("Qwen3", 40, 5120, 17408, 40, 8, 151936), 128, 15.1),
        (LARGE, llm("Qwen3", 64, 5120, 25600, 64, 8, 151936), 128, 38.4),
        (SMALL, llm("Phi3", 32, 3072, 8192, 32, 32, 32020), 96, 4.15),
        (LARGE, llm("Llama", 60, 7168, 20480, 56, 8, 64000), 128, 40.1),
    ],
    ids=lambda value: str(value) if isinstance(value, float) else None,
)
def test_the_values_of_a_checkpoint_are_as_many_as_published(
    tower: dict[str, Any], language: dict[str, Any], head_dim: int, billions: float
) -> None:
    config = config_from_json({"model_type": "internvl_chat", "vision_config": tower, "llm_config": language})
    assert config.need(LanguageConfig).head_dim == head_dim
    count = sum(math.prod(shape) for shape in stored_shapes(config).values()) / 1e9
    assert count == pytest.approx(billions, abs=0.06 if billions < 10 else 0.1)
