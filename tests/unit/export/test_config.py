"""`config.json` to the model's shape: class defaults, and every unsupported point in one line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from internvl_edge.export.config import ConnectorConfig, VisionConfig, config_from_json
from internvl_edge.runtime.errors import CheckpointError

QLLAMA: dict[str, Any] = {"vocab_size": 49954}


def test_the_golden_config_is_read_in_full(golden_a: Path) -> None:
    config = config_from_json(json.loads((golden_a / "checkpoint" / "config.json").read_text()))
    assert config.family == "internvl"
    assert (config.vision.hidden_size, config.vision.num_heads, config.vision.num_layers) == (64, 4, 3)
    assert (config.vision.grid, config.vision.tokens, config.vision.head_dim) == (4, 17, 16)
    assert config.qllama is not None
    assert (config.qllama.num_queries, config.qllama.vision_hidden_size, config.qllama.head_dim) == (8, 64, 16)
    assert config.qllama.cross_attention_layers == (0, 2)
    assert (config.embed_dim, config.pool_heads) == (32, 8)


def test_what_a_file_leaves_out_has_the_14b_defaults() -> None:
    config = config_from_json({"model_type": "internvl", "qllama_config": QLLAMA})
    assert config.vision == VisionConfig(
        hidden_size=3200,
        num_heads=25,
        num_layers=48,
        intermediate_size=12800,
        patch_size=14,
        image_size=224,
        norm_type="rms_norm",
        eps=1e-6,
        qkv_bias=False,
        qk_norm=True,
    )
    assert config.qllama is not None
    assert (config.qllama.hidden_size, config.qllama.num_layers, config.qllama.vocab_size) == (4096, 32, 49954)
    assert config.qllama.cross_attention_layers == tuple(range(0, 32, 2))
    assert (config.embed_dim, config.pool_heads, config.qllama.num_queries) == (768, 16, 96)


def test_null_is_the_same_as_absent() -> None:
    nulls = {"force_image_size": None, "num_query_token": None}
    qllama = {**QLLAMA, "pad_token_id": None, "num_key_value_heads": None}
    given = config_from_json({"model_type": "internvl", "qllama_config": qllama, **nulls})
    assert given == config_from_json({"model_type": "internvl", "qllama_config": QLLAMA})


def test_the_top_levels_cross_attention_frequency_stands() -> None:
    nested = {**QLLAMA, "num_hidden_layers": 6, "cross_attention_frequency": 2}
    config = config_from_json({"model_type": "internvl", "qllama_config": nested, "cross_attention_frequency": 3})
    assert config.qllama is not None
    assert config.qllama.cross_attention_layers == (0, 3)


def test_force_image_size_stands_over_the_towers() -> None:
    config = config_from_json({"model_type": "internvl", "qllama_config": QLLAMA, "force_image_size": 364})
    assert config.vision.tokens == 677


def test_a_chat_config_takes_tower_and_connector(golden_b: Path) -> None:
    config = config_from_json(json.loads((golden_b / "checkpoint_chat" / "config.json").read_text()))
    assert config.family == "internvl_chat"
    assert config.qllama is None
    assert config.embed_dim is None
    assert config.connector == ConnectorConfig(downsample=0.5, ps_version="v2", select_layer=-1, llm_hidden_size=48)
    assert config.vision.norm_type == "layer_norm"
    assert config.vision.qkv_bias
    assert not config.vision.qk_norm


def test_a_chat_config_without_ps_version_is_v1() -> None:
    vision = {"image_size": 448}
    config = config_from_json(
        {"model_type": "internvl_chat", "llm_config": {"hidden_size": 8}, "vision_config": vision}
    )
    assert config.connector is not None
    assert config.connector.ps_version == "v1"


@pytest.mark.parametrize(
    ("content", "findings"),
    [
        ({"model_type": "internvl"}, ["qllama_config is missing"]),
        ({"model_type": "bert"}, ["model_type 'bert'"]),
        ({"model_type": "internvl", "text_config": {}, "vision_config": {}}, ["transformers' own port"]),
        ({"model_type": "intern_vit_6b", "image_size": 230}, ["image_size 230 is no multiple of the patch size 14"]),
        ({"model_type": "intern_vit_6b", "num_attention_heads": 24}, ["24 heads do not divide hidden_size 3200"]),
        ({"model_type": "intern_vit_6b", "hidden_act": "gelu_new"}, ["hidden_act 'gelu_new' is not gelu"]),
        ({"model_type": "intern_vit_6b", "norm_type": "batch_norm"}, ["norm_type 'batch_norm'"]),
        ({"model_type": "intern_vit_6b", "num_channels": 4}, ["4 colour channels"]),
        ({"model_type": "intern_vit_6b", "image_size": [448, 448]}, ["image_size is [448, 448]"]),
        ({"model_type": "intern_vit_6b", "patch_size": 0, "hidden_size": "64"}, ["patch_size is 0", "size is '64'"]),
        ({"model_type": "intern_vit_6b", "layer_norm_eps": float("nan")}, ["eps is nan"]),
        ({"model_type": "internvl", "qllama_config": [1]}, ["qllama_config is no object"]),
        ({"model_type": "internvl", "qllama_config": {"hidden_act": "gelu"}}, ["hidden_act 'gelu' is not silu"]),
        ({"model_type": "internvl", "qllama_config": {"rope_scaling": {"type": "linear"}}}, ["rope_scaling"]),
        ({"model_type": "internvl", "qllama_config": {"num_key_value_heads": 8}}, ["8 grouped key/value heads"]),
        ({"model_type": "internvl", "qllama_config": {"num_attention_heads": 30}}, ["30 heads do not divide"]),
        ({"model_type": "internvl", "qllama_config": QLLAMA, "cross_attention_frequency": 0}, ["frequency is 0"]),
        ({"model_type": "internvl", "qllama_config": QLLAMA, "attn_pool_num_heads": 7}, ["7 does not divide"]),
        ({"model_type": "internvl_chat"}, ["language model's hidden_size is missing"]),
        (
            {"model_type": "internvl_chat", "hidden_size": 8, "downsample_ratio": 0.3},
            ["downsample_ratio 0.3 is no 1/n"],
        ),
        ({"model_type": "internvl_chat", "hidden_size": 8, "ps_version": "v3"}, ["ps_version 'v3'"]),
        ({"model_type": "internvl_chat", "hidden_size": 8, "select_layer": 2}, ["select_layer 2"]),
        ({"model_type": "internvl_chat", "hidden_size": 8, "force_image_size": 238}, ["grid 17 is no multiple"]),
    ],
)
def test_what_cannot_be_built_is_refused(content: dict[str, Any], findings: list[str]) -> None:
    with pytest.raises(CheckpointError) as caught:
        config_from_json(content)
    message = str(caught.value)
    assert message.startswith("config.json: ")
    assert "\n" not in message
    assert [finding for finding in findings if finding not in message] == []


def test_all_parts_are_heard_at_once() -> None:
    with pytest.raises(CheckpointError, match=r"image_size 50 .*qllama_config is missing"):
        config_from_json({"model_type": "internvl", "vision_config": {"image_size": 50}})


def test_a_config_made_by_hand_is_checked_too() -> None:
    with pytest.raises(CheckpointError, match="no multiple of the patch size"):
        replace(VisionConfig(), image_size=225)
