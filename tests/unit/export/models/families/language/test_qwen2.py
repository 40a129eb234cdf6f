"""Qwen2: the recorded checkpoint opens with every key accounted for, and its config reads as its class does."""

from typing import Any

import pytest

from internvl_edge.export.checkpoint.config.config_json import config_from_json
from internvl_edge.export.models.config import LanguageConfig, RopeConfig
from internvl_edge.export.models.families.language.qwen2 import QWEN2
from internvl_edge.runtime.errors import CheckpointError
from tests.golden_chat import golden_chat
from tests.unit.export.checkpoint.checkpoint_folders import opened


def language_config(**fields: Any) -> LanguageConfig:
    llm = {"architectures": ["Qwen2ForCausalLM"], "hidden_size": 72, "num_attention_heads": 6, **fields}
    content = {"model_type": "internvl_chat", "vision_config": {"image_size": 448}, "llm_config": llm}
    return config_from_json(content).need(LanguageConfig)


def test_the_recorded_checkpoint_opens_with_all_of_its_keys() -> None:
    checkpoint = opened(golden_chat("c1").checkpoint)
    assert checkpoint.ignored == ()
    assert checkpoint.config.without_llm is None
    assert checkpoint.config.need(LanguageConfig) == LanguageConfig(
        family="qwen2",
        hidden_size=72,
        num_heads=6,
        num_kv_heads=2,
        head_dim=12,
        num_layers=3,
        intermediate_size=104,
        vocab_size=531,
        eps=1e-6,
        max_positions=32768,
        rope=RopeConfig(theta=1e6),
        qkv_bias=True,
    )


def test_what_a_file_leaves_out_has_the_classes_defaults() -> None:
    """Files of the official layout leave out what their class has by default."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    library = transformers.Qwen2Config()
    config = language_config(hidden_size=4096, num_attention_heads=32)
    assert config.num_kv_heads == library.num_key_value_heads
    assert (config.num_layers, config.intermediate_size) == (library.num_hidden_layers, library.intermediate_size)
    assert (config.vocab_size, config.max_positions) == (library.vocab_size, library.max_position_embeddings)
    assert config.eps == library.rms_norm_eps
    assert config.rope == RopeConfig(theta=library.rope_parameters["rope_theta"])


def test_a_window_that_is_turned_off_is_none() -> None:
    off = language_config(num_key_value_heads=2, sliding_window=1024, use_sliding_window=False)
    assert off == language_config(num_key_value_heads=2)
    late = {"num_key_value_heads": 2, "use_sliding_window": True, "sliding_window": 1024, "num_hidden_layers": 4}
    assert language_config(**late, max_window_layers=4).num_layers == 4
    with pytest.raises(
        CheckpointError, match=r"llm_config\.sliding_window is 1024, but the graphs attend to the whole"
    ):
        language_config(**late, max_window_layers=3)


def test_the_family_has_biases_on_queries_keys_and_values_alone() -> None:
    assert QWEN2.switches({}) == {"qkv_bias": True}
    assert not language_config(num_key_value_heads=2).out_bias
