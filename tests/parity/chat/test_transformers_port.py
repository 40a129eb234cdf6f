"""Checkpoints that transformers' own port writes with random weights: its tower, connector and language model are ours.

They cover what no recorded case has: biases of LLaMA's attention, linear angles, an epsilon of the tower that is not
that of its norms of queries and keys, another layer than the last one, and the names that the library writes today.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from internvl_edge.export.models.config import ConnectorConfig, LanguageConfig
from tests.parity.chat.loading import load, torch_graph
from tests.tolerances import CHAT_LOGITS

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

VISION = {
    "hidden_size": 40,
    "num_attention_heads": 5,
    "num_hidden_layers": 3,
    "intermediate_size": 96,
    "image_size": [84, 84],
    "patch_size": [14, 14],
}
TEXT = {
    "hidden_size": 48,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 80,
    "vocab_size": 301,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "llama with biases": (
        {"attention_bias": True},
        {
            "model_type": "llama",
            "attention_bias": True,
            "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4},
        },
        {"vision_feature_layer": -2},
    ),
    "qwen3 with its own head size": (
        {"norm_type": "rms_norm", "use_qk_norm": True, "layer_norm_eps": 1e-3},
        {
            "model_type": "qwen3",
            "head_dim": 16,
            "attention_bias": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
        {"tie_word_embeddings": True},
    ),
    "qwen2 beyond its limit": (
        {"attention_bias": True, "layer_norm_eps": 1e-5},
        {"model_type": "qwen2", "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e6}},
        {"tie_word_embeddings": False},
    ),
}


def saved(folder: Path, vision: dict[str, Any], text: dict[str, Any], top: dict[str, Any]) -> Any:
    """Save a random model of the port, and return it."""
    config = transformers.InternVLConfig(
        vision_config={**VISION, **vision},
        text_config={**TEXT, **text, "tie_word_embeddings": top.get("tie_word_embeddings", False)},
        image_token_id=300,
        image_seq_length=9,
        **{"tie_word_embeddings": False, **top},
    )
    torch.manual_seed(7)
    model = transformers.InternVLForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(torch.randn(value.shape) * 0.15 + (1.0 if name.endswith(("norm.weight", "lambda_1")) else 0.0))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("case", CASES)
def test_our_graphs_are_its_forward(tmp_path: Path, rng: np.random.Generator, case: str) -> None:
    vision, text, top = CASES[case]
    model = saved(tmp_path, vision, text, top)
    ours = load(tmp_path)
    assert ours.config.need(ConnectorConfig).select_layer == top.get("vision_feature_layer", -1)
    assert ours.config.need(LanguageConfig).tied_head == top.get("tie_word_embeddings", False)
    pixels = rng.standard_normal((2, 3, 84, 84)).astype(np.float32)
    ids = rng.integers(0, 300, (1, 90))
    ids[0, 5:23] = 300
    with torch.no_grad():
        expected = model(input_ids=torch.from_numpy(ids), pixel_values=torch.from_numpy(pixels)).logits[0, -1].numpy()
    tiles = torch_graph(str(tmp_path), "vision")({"pixel_values": pixels})["vit_embeds"]
    embeds = ours.table[ids]
    embeds[ids == 300] = tiles.reshape(-1, tiles.shape[-1])
    language = ours.language
    empty = np.zeros((1, language.num_kv_heads, 0, language.head_dim), np.float32)
    inputs = {
        f"past_key_values.{layer}.{part}": empty for layer in range(language.num_layers) for part in ("key", "value")
    }
    inputs |= {
        "inputs_embeds": embeds,
        "attention_mask": np.ones((1, 90), np.int64),
        "position_ids": np.arange(90)[None],
    }
    inputs |= {"rope_length": np.array([90])} if language.rope.follows_length else {}
    found = torch_graph(str(tmp_path), "llm")(inputs)["logits"][0]
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(found, expected, atol=CHAT_LOGITS, rtol=0)
