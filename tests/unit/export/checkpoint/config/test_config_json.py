"""`config.json` to the model's shape: class defaults, and every unsupported point in one line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from internvl_edge.export.checkpoint.config.config_json import config_from_json, read_config
from internvl_edge.export.models.config import ConnectorConfig, PoolConfig, QllamaConfig, VisionConfig
from internvl_edge.export.models.families.fields import FieldReader
from internvl_edge.export.models.model_info import model_info
from internvl_edge.runtime.errors import CheckpointError

QLLAMA: dict[str, Any] = {"vocab_size": 49954}


def test_the_golden_config_is_read_in_full(golden_a: Path) -> None:
    config = config_from_json(json.loads((golden_a / "checkpoint" / "config.json").read_text()))
    assert config.layout == "internvl"
    assert (config.vision.hidden_size, config.vision.num_heads, config.vision.num_layers) == (64, 4, 3)
    assert (config.vision.grid, config.vision.tokens, config.vision.head_dim) == (4, 17, 16)
    qllama = config.need(QllamaConfig)
    assert (qllama.num_queries, qllama.vision_hidden_size, qllama.head_dim) == (8, 64, 16)
    assert qllama.cross_attention_layers == (0, 2)
    assert config.find(PoolConfig) == PoolConfig(embed_dim=32, pool_heads=8)


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
    qllama = config.need(QllamaConfig)
    assert (qllama.hidden_size, qllama.num_layers, qllama.vocab_size) == (4096, 32, 49954)
    assert config.need(QllamaConfig).cross_attention_layers == tuple(range(0, 32, 2))
    assert config.find(PoolConfig) == PoolConfig(embed_dim=768, pool_heads=16)
    assert config.need(QllamaConfig).num_queries == 96


def test_null_is_the_same_as_absent() -> None:
    nulls = {"force_image_size": None, "num_query_token": None}
    qllama = {**QLLAMA, "pad_token_id": None, "num_key_value_heads": None}
    given = config_from_json({"model_type": "internvl", "qllama_config": qllama, **nulls})
    assert given == config_from_json({"model_type": "internvl", "qllama_config": QLLAMA})


def test_the_top_levels_cross_attention_frequency_stands() -> None:
    nested = {**QLLAMA, "num_hidden_layers": 6, "cross_attention_frequency": 2}
    config = config_from_json({"model_type": "internvl", "qllama_config": nested, "cross_attention_frequency": 3})
    assert config.need(QllamaConfig).cross_attention_layers == (0, 3)


def test_force_image_size_stands_over_the_towers() -> None:
    config = config_from_json({"model_type": "internvl", "qllama_config": QLLAMA, "force_image_size": 364})
    assert config.vision.tokens == 677


def test_a_chat_config_takes_tower_and_connector(golden_b: Path) -> None:
    config = config_from_json(json.loads((golden_b / "checkpoint_chat" / "config.json").read_text()))
    assert config.layout == "internvl_chat"
    assert config.find(QllamaConfig) is None
    assert config.find(PoolConfig) is None
    assert config.find(ConnectorConfig) == ConnectorConfig(
        downsample=0.5, ps_version="v2", select_layer=-1, llm_hidden_size=48, most_tiles=12, thumbnail=True
    )
    assert config.vision.norm_type == "layer_norm"
    assert config.vision.qkv_bias
    assert not config.vision.qk_norm


def test_a_language_models_width_may_lie_one_level_down() -> None:
    nested = {"text_config": {"hidden_size": 12}}
    config = config_from_json({"model_type": "internvl_chat", "llm_config": nested, "vision_config": {}})
    assert config.need(ConnectorConfig).llm_hidden_size == 12
    with pytest.raises(CheckpointError, match="text_config is no object"):
        config_from_json({"model_type": "internvl_chat", "llm_config": {"text_config": 12}, "vision_config": {}})


def test_a_chat_config_without_ps_version_is_v1() -> None:
    vision = {"image_size": 448}
    config = config_from_json(
        {"model_type": "internvl_chat", "llm_config": {"hidden_size": 8}, "vision_config": vision}
    )
    assert config.need(ConnectorConfig).ps_version == "v1"


@pytest.mark.parametrize(
    ("content", "findings"),
    [
        ({"model_type": "internvl"}, ["qllama_config is missing"]),
        ({"model_type": "bert"}, ["model_type 'bert'"]),
        ({"model_type": "llava", "mm_vision_tower": "vit-6b"}, ["LLaVA's layout", "vit-6b is a checkpoint of its own"]),
        (
            {"model_type": "internvl", "text_config": {"model_type": "x"}, "vision_config": {}},
            ["hidden_size is missing"],
        ),
        ({"model_type": "intern_vit_6b", "image_size": 230}, ["image_size 230 is no multiple of the patch size 14"]),
        ({"model_type": "intern_vit_6b", "num_attention_heads": 24}, ["24 heads do not divide hidden_size 3200"]),
        ({"model_type": "intern_vit_6b", "hidden_act": "gelu_new"}, ["hidden_act 'gelu_new' is not gelu"]),
        ({"model_type": "intern_vit_6b", "norm_type": "batch_norm"}, ["norm_type 'batch_norm'"]),
        ({"model_type": "intern_vit_6b", "num_channels": 4}, ["4 colour channels"]),
        ({"model_type": "intern_vit_6b", "image_size": [448, 336]}, ["is [448, 336], which is no square"]),
        ({"model_type": "intern_vit_6b", "patch_size": 0, "hidden_size": "64"}, ["patch_size is 0", "size is '64'"]),
        ({"model_type": "intern_vit_6b", "layer_norm_eps": float("nan")}, ["eps is nan"]),
        ({"model_type": "internvl", "qllama_config": [1]}, ["qllama_config is no object"]),
        ({"model_type": "internvl", "qllama_config": {"hidden_act": "gelu"}}, ["hidden_act 'gelu' is not silu"]),
        (
            {"model_type": "internvl", "qllama_config": {"rope_scaling": {"type": "linear"}}},
            ["rope_scaling is of type 'linear'"],
        ),
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


QLLAMA_REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"attention_bias": True}, "attention_bias True adds biases"),
    ({"mlp_bias": True}, "mlp_bias True adds biases"),
    ({"qkv_bias": True}, "qkv_bias True adds biases"),
    ({"bias": True}, "qllama_config.bias True adds biases"),
    ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not silu"),
    ({"head_dim": 64}, "head_dim is 64, but each of 32 heads has 128"),
    ({"num_key_value_heads": 8}, "32 heads share 8 grouped key/value heads"),
    ({"sliding_window": 512}, "sliding_window is 512"),
    ({"sliding_window": 512, "use_sliding_window": True}, "sliding_window is 512"),
    ({"layer_types": ["full_attention", "sliding_attention"]}, "attentions of other kinds"),
    ({"pruned_heads": {"0": [1]}}, "pruned_heads {'0': [1]}"),
    ({"use_qk_norm": True}, "normalizes queries and keys"),
    ({"repetition_penalty": 1.2}, "--accept-config qllama_config.repetition_penalty"),
    ({"suppress_tokens": [7]}, "--accept-config qllama_config.suppress_tokens"),
    ({"eos_token_id": [2, 7]}, "eos_token_id is [2, 7], but captions know one id"),
    ({"eos_token_id": "</s>"}, "eos_token_id is '</s>', which is no token of the tokenizer.model"),
    ({"eos_token_id": True}, "eos_token_id is True, which is no token id"),
    ({"eos_token_id": 1.5}, "eos_token_id is 1.5, which is no token id"),
    ({"eos_token_id": 49954}, "eos_token_id 49954 is outside the vocabulary"),
    ({"logits_soft_cap": 30.0}, "unknown fields that could change what the model computes: qllama_config.logits_soft"),
    ({"rms_norm_eps": 1e-5, "norm_eps": 1e-6}, "rms_norm_eps is 1e-05 and qllama_config.norm_eps is 1e-06"),
]


@pytest.mark.parametrize(("fields", "finding"), QLLAMA_REFUSED)
def test_a_field_of_qllama_that_the_graphs_do_not_follow_is_refused(fields: dict[str, Any], finding: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        config_from_json({"model_type": "internvl", "qllama_config": {**QLLAMA, **fields}})
    assert finding in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"attention_bias": False, "mlp_bias": False, "pretraining_tp": 2, "attention_dropout": 0.1},
        {"num_key_value_heads": 32, "head_dim": 128, "hidden_act": "swish"},
        {"sliding_window": 4096},
        {"sliding_window": 512, "use_sliding_window": False, "max_window_layers": 3},
        {"layer_types": ["full_attention"] * 32},
        {"pad_token_id": -1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "do_sample": True, "top_k": 9},
        {"torch_dtype": "bfloat16", "dtype": "float16", "quantization_config": {"quant_method": "awq"}},
        {"new_list": [], "new_text": "", "new_null": None, "tie_word_embeddings": True},
    ],
)
def test_a_field_without_bearing_changes_nothing(fields: dict[str, Any]) -> None:
    given = config_from_json({"model_type": "internvl", "qllama_config": {**QLLAMA, **fields}})
    assert given == config_from_json({"model_type": "internvl", "qllama_config": QLLAMA})


@pytest.mark.parametrize(
    ("value", "known"), [(7, 7), ([7], 7), ("7", 7), (["7", 7], 7), ("<end>", 9), (["<end>", 9], 9), (None, 2)]
)
def test_an_id_is_a_number_a_list_or_a_text(value: Any, known: int) -> None:
    reader = FieldReader()
    content = {"model_type": "internvl", "qllama_config": {**QLLAMA, "eos_token_id": value}}
    config = read_config(content, reader, {"<end>": 9}.get).model
    reader.finish()
    assert config.need(QllamaConfig).eos_token_id == known


def test_the_ids_reach_the_manifest() -> None:
    ids = {"bos_token_id": 5, "eos_token_id": [6], "pad_token_id": "7"}
    info = model_info(config_from_json({"model_type": "internvl", "qllama_config": {**QLLAMA, **ids}})).require_text()
    assert (info.bos_token_id, info.eos_token_id, info.pad_token_id) == (5, 6, 7)


@pytest.mark.parametrize("eps", ["rms_norm_eps", "layer_norm_eps", "norm_eps"])
def test_every_name_of_the_norms_eps_is_heard(eps: str) -> None:
    parts = {"qllama_config": {**QLLAMA, eps: 1e-5}, "vision_config": {eps: 1e-4}}
    config = config_from_json({"model_type": "internvl", **parts})
    assert (config.need(QllamaConfig).eps, config.vision.eps) == (1e-5, 1e-4)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"image_size": [448, 448], "patch_size": [14, 14]}, {"image_size": 448}),
        ({"attention_bias": True, "use_qk_norm": False}, {"qkv_bias": True, "qk_norm": False}),
        ({"hidden_act": "gelu_python", "num_channels": 3, "use_moe": False, "num_experts": 8}, {}),
        ({"use_mean_pooling": True, "use_absolute_position_embeddings": True, "head_dim": 128}, {}),
        ({"drop_path_rate": 0.3, "dropout": 0.1, "attention_dropout": 0.1, "use_flash_attn": True}, {}),
    ],
)
def test_a_towers_fields_are_heard_or_have_no_bearing(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    config = config_from_json({"model_type": "intern_vit_6b", **fields})
    assert config.vision == VisionConfig(**expected)


@pytest.mark.parametrize(
    ("fields", "finding"),
    [
        ({"use_moe": True}, "use_moe True is a mixture of experts"),
        ({"qkv_bias": "false"}, "qkv_bias is 'false', which is neither true nor false"),
        ({"qk_normalization": 0}, "qk_normalization is 0, which is neither true nor false"),
        ({"use_mean_pooling": False}, "use_mean_pooling False adds a norm"),
        ({"use_absolute_position_embeddings": False}, "leaves out the position table"),
        ({"hidden_act": "quick_gelu"}, "hidden_act 'quick_gelu' is not gelu"),
        ({"head_dim": 64}, "vision head_dim is 64, but each of 25 heads has 128"),
        ({"num_key_value_heads": 5}, "vision 25 heads share 5 grouped"),
        ({"rotary_2d": True}, "--accept-config rotary_2d"),
        ({"qkv_bias": True, "attention_bias": False}, "they mean the same thing"),
    ],
)
def test_a_towers_field_that_the_graphs_do_not_follow_is_refused(fields: dict[str, Any], finding: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        config_from_json({"model_type": "intern_vit_6b", **fields})
    assert finding in str(caught.value)


def test_unknown_fields_of_all_parts_are_named_at_once() -> None:
    content = {
        "model_type": "internvl",
        "gate": 1,
        "vision_config": {"window": 2},
        "qllama_config": {**QLLAMA, "alibi": True},
    }
    with pytest.raises(CheckpointError) as caught:
        config_from_json(content)
    options = "--accept-config gate --accept-config vision_config.window --accept-config qllama_config.alibi"
    assert options in str(caught.value)


def test_the_ranks_of_unmerged_adapters_are_heard() -> None:
    reader = FieldReader()
    content = {"model_type": "internvl", "qllama_config": QLLAMA, "use_backbone_lora": 16, "use_qllama_lora": 8}
    config = read_config(content, reader)
    reader.finish()
    assert (config.backbone_lora, config.qllama_lora) == (16, 8)


@pytest.mark.parametrize(
    ("fields", "tiles"),
    [
        ({}, (1, 1, False)),
        ({"max_dynamic_patch": 12}, (1, 1, False)),
        ({"dynamic_image_size": True}, (1, 6, False)),
        ({"dynamic_image_size": True, "max_dynamic_patch": 6, "use_thumbnail": False}, (1, 6, False)),
        ({"dynamic_image_size": True, "min_dynamic_patch": 2, "max_dynamic_patch": 4}, (2, 4, False)),
        ({"dynamic_image_size": False, "max_dynamic_patch": 12, "use_thumbnail": False}, (1, 1, False)),
    ],
)
def test_how_pictures_are_cut_reaches_the_manifest(fields: dict[str, Any], tiles: tuple[int, int, bool]) -> None:
    info = model_info(config_from_json({"model_type": "internvl_chat", "hidden_size": 8, **fields}))
    assert info.tiling is not None
    assert (info.tiling.fewest, info.tiling.most, info.tiling.thumbnail) == tiles


@pytest.mark.parametrize(
    ("fields", "finding"),
    [
        (
            {"dynamic_image_size": True, "min_dynamic_patch": 7, "max_dynamic_patch": 6},
            "min_dynamic_patch 7 is more than max_dynamic_patch 6",
        ),
        ({"dynamic_image_size": True, "max_dynamic_patch": 0}, "most_tiles is 0"),
        ({"use_thumbnail": "no"}, "use_thumbnail is 'no', which is neither true nor false"),
        ({"pad2square": True}, "--accept-config pad2square"),
    ],
)
def test_a_cut_that_cannot_be_made_is_refused(fields: dict[str, Any], finding: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        config_from_json({"model_type": "internvl_chat", "hidden_size": 8, **fields})
    assert finding in str(caught.value)
