"""Every family reads its own fields of `config.json`, and finds what it can from shapes alone."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import pytest

from internvl_edge.export.blockwise.sources import stored_shapes
from internvl_edge.export.checkpoint.config.config_json import config_from_json
from internvl_edge.export.models.config import (
    ConnectorConfig,
    ModelConfig,
    PartConfig,
    PoolConfig,
    QllamaConfig,
    VisionConfig,
)
from internvl_edge.export.models.families import FAMILIES
from internvl_edge.export.models.families.connector import CONNECTOR
from internvl_edge.export.models.families.family import ConfigSource, StoredShapes, check_heads, layer_count, part_of
from internvl_edge.export.models.families.fields import FieldReader
from internvl_edge.export.models.families.internvit import INTERNVIT
from internvl_edge.export.models.families.pool import POOL
from internvl_edge.export.models.families.qllama import QLLAMA_FAMILY, QLLAMA_STACK
from internvl_edge.runtime.errors import CheckpointError

TOWER = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 96}
TEXT = {"hidden_size": 48, "num_attention_heads": 2, "num_hidden_layers": 3, "intermediate_size": 80, "vocab_size": 96}
OFFICIAL = {"model_type": "internvl", "vision_config": TOWER, "qllama_config": TEXT}
CHAT_FILE = {"model_type": "internvl_chat", "vision_config": TOWER, "llm_config": {"hidden_size": 24}}


def part(kind: type[PartConfig], content: Mapping[str, Any]) -> PartConfig:
    return config_from_json(content).need(kind)


def changed(kind: type[PartConfig], content: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a part that `content` gives other values than `base`."""
    mine, before = part(kind, content), part(kind, base)
    values = {field.name: getattr(mine, field.name) for field in fields(kind)}
    return {name: value for name, value in values.items() if value != getattr(before, name)}


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ({"hidden_size": 96}, {"hidden_size": 96}),
        ({"num_attention_heads": 2}, {"num_heads": 2}),
        ({"num_hidden_layers": 5}, {"num_layers": 5}),
        ({"intermediate_size": 32}, {"intermediate_size": 32}),
        ({"patch_size": 28}, {"patch_size": 28}),
        ({"image_size": [448, 448]}, {"image_size": 448}),
        ({"norm_type": "layer_norm"}, {"norm_type": "layer_norm"}),
        ({"layer_norm_eps": 1e-5}, {"eps": 1e-5}),
        ({"attention_bias": True}, {"qkv_bias": True}),
        ({"use_qk_norm": False}, {"qk_norm": False}),
        ({"hidden_act": "gelu_python"}, {}),
    ],
)
def test_fields_of_the_tower(said: dict[str, Any], read: dict[str, Any]) -> None:
    assert changed(VisionConfig, {**OFFICIAL, "vision_config": {**TOWER, **said}}, OFFICIAL) == read
    alone = {"model_type": "intern_vit_6b", **TOWER}
    assert changed(VisionConfig, {**alone, **said}, alone) == read


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ({"hidden_size": 96}, {"hidden_size": 96}),
        ({"num_attention_heads": 4, "head_dim": 12}, {"num_heads": 4}),
        ({"num_hidden_layers": 4}, {"num_layers": 4}),
        ({"intermediate_size": 32}, {"intermediate_size": 32}),
        ({"vocab_size": 97}, {"vocab_size": 97}),
        ({"norm_eps": 1e-5}, {"eps": 1e-5}),
        ({"rotary_emb_base": 5e5}, {"rope_theta": 5e5}),
        ({"max_position_embeddings": 64}, {"max_positions": 64}),
        ({"num_query_token": 8}, {"num_queries": 8}),
        ({"eos_token_id": [7]}, {"eos_token_id": 7}),
        ({"pad_token_id": -1}, {}),
    ],
)
def test_fields_of_qllama(said: dict[str, Any], read: dict[str, Any]) -> None:
    assert changed(QllamaConfig, {**OFFICIAL, "qllama_config": {**TEXT, **said}}, OFFICIAL) == read


def test_fields_of_qllama_at_the_top_level() -> None:
    said = {**OFFICIAL, "num_query_token": 5, "cross_attention_frequency": 1}
    assert changed(QllamaConfig, said, OFFICIAL) == {"num_queries": 5, "cross_attention_layers": (0, 1, 2)}
    wider = {**OFFICIAL, "vision_config": {**TOWER, "hidden_size": 128}}
    assert changed(QllamaConfig, wider, OFFICIAL) == {"vision_hidden_size": 128}
    assert QLLAMA_STACK.blocks(config_from_json(OFFICIAL))[-1] == "qllama.model.layers.2"


def test_fields_of_the_pool() -> None:
    assert part(PoolConfig, OFFICIAL) == PoolConfig(embed_dim=768, pool_heads=16)
    said = {**OFFICIAL, "clip_embed_dim": 32, "attn_pool_num_heads": 8}
    assert changed(PoolConfig, said, OFFICIAL) == {"embed_dim": 32, "pool_heads": 8}
    with pytest.raises(CheckpointError, match=r"config\.json: model embed_dim is 0"):
        config_from_json({**OFFICIAL, "clip_embed_dim": 0})
    with pytest.raises(CheckpointError, match=r"model attn_pool_num_heads 7 does not divide \[64, 48\]"):
        config_from_json({**OFFICIAL, "attn_pool_num_heads": 7})


def test_fields_of_the_connector() -> None:
    said = {**CHAT_FILE, "downsample_ratio": 0.25, "ps_version": "v2", "select_layer": -2}
    assert changed(ConnectorConfig, said, CHAT_FILE) == {"downsample": 0.25, "ps_version": "v2", "select_layer": -2}
    tiles = {**CHAT_FILE, "dynamic_image_size": True, "min_dynamic_patch": 2, "use_thumbnail": True}
    assert changed(ConnectorConfig, tiles, CHAT_FILE) == {"fewest_tiles": 2, "most_tiles": 6, "thumbnail": True}
    nested = {**CHAT_FILE, "llm_config": {"text_config": {"hidden_size": 40}}}
    assert changed(ConnectorConfig, nested, CHAT_FILE) == {"llm_hidden_size": 40}


@pytest.mark.parametrize("content", [OFFICIAL, {"model_type": "intern_vit_6b", **TOWER}])
def test_shapes_tell_all_but_heads_and_settings(content: dict[str, Any]) -> None:
    config = config_from_json({**content, **({"num_query_token": 5} if content is OFFICIAL else {})})
    stored, parts = StoredShapes(needed=stored_shapes(config), unused={}), list[PartConfig]()
    for family in FAMILIES:
        found = family.from_shapes(stored, parts)
        parts += [found] if found is not None else []
    assert [type(found) for found in parts] == [type(own) for own in config.parts]
    widths = ("hidden_size", "num_layers", "intermediate_size", "vocab_size", "num_queries", "embed_dim", "image_size")
    for found, own in zip(parts, config.parts, strict=True):
        for name in widths:
            assert getattr(found, name, None) == getattr(own, name, None), name
    assert len(stored.unclear) == len(parts)


def test_a_plain_file_has_the_tower_and_what_is_stored_of_the_others() -> None:
    config = config_from_json(OFFICIAL)
    shapes = stored_shapes(config)
    assert INTERNVIT.in_plain_file(config, shapes) == config.vision
    assert QLLAMA_FAMILY.in_plain_file(config, {}) is None
    text = QLLAMA_FAMILY.in_plain_file(config, shapes)
    assert isinstance(text, QllamaConfig)
    assert text.text_alone
    assert POOL.in_plain_file(config, {}) is None
    assert POOL.in_plain_file(config, shapes) == PoolConfig(embed_dim=768, pool_heads=16)
    assert CONNECTOR.in_plain_file(config_from_json(CHAT_FILE), {"mlp1.0.weight": (1,)}) is None


@pytest.mark.parametrize(
    ("plain", "official"),
    [
        ("cls_token", "vision_model.embeddings.class_embedding"),
        ("pos_embed", "vision_model.embeddings.position_embedding"),
        ("patch_embed.proj.bias", "vision_model.embeddings.patch_embedding.bias"),
        ("blocks.11.ls2.gamma", "vision_model.encoder.layers.11.ls2"),
        ("blocks.11.attn.qkv.weight", "vision_model.encoder.layers.11.attn.qkv.weight"),
        ("transformer.layers.3.mlp.up_proj.weight", "qllama.model.layers.3.mlp.up_proj.weight"),
        ("clip_projector.norm1_q.weight", None),
    ],
)
def test_plain_names_are_renamed_by_the_family_that_owns_them(plain: str, official: str | None) -> None:
    found = {family.name: name for family in FAMILIES if (name := family.official(plain)) is not None}
    assert list(found.values()) == ([official] if official else [])
    assert official is None or all(family.owns(official) for family in FAMILIES if family.name in found)


def test_a_tied_head_is_the_table_where_captions_are_wanted() -> None:
    config = config_from_json(OFFICIAL)
    assert QLLAMA_FAMILY.tied(config) == ("qllama.lm_head.weight", "qllama.model.embed_tokens.weight")
    text = config.with_part(QllamaConfig(text_alone=True))
    assert QLLAMA_FAMILY.tied(text) is None
    assert INTERNVIT.tied(config) is None


def test_a_part_of_a_file_must_be_an_object() -> None:
    source = ConfigSource(
        layout="internvl", top={"vision_config": [1]}, reader=FieldReader(), token_id=lambda text: None
    )
    with pytest.raises(CheckpointError, match="vision_config is no object"):
        source.part("vision_config")
    assert part_of({}, "llm_config") == {}


def test_heads_that_are_grouped_or_of_another_size_are_found() -> None:
    reader = FieldReader()
    check_heads("vision", 4, 16, {"key_value_heads": 4, "head_dim": 16}, reader)
    assert reader.findings == {}
    check_heads("vision", 4, 16, {"key_value_heads": 2, "head_dim": 8}, reader)
    assert reader.findings == {
        "config.json": [
            "vision 4 heads share 2 grouped key/value heads",
            "vision head_dim is 8, but each of 4 heads has 16",
        ]
    }


def test_layers_are_counted_by_their_largest_index() -> None:
    assert layer_count({"a.layers.0.w": (1,), "a.layers.10.w": (1,), "b.20.w": (1,)}, "a.layers.") == 11


def test_parts_are_replaced_by_kind() -> None:
    config = config_from_json(OFFICIAL)
    wider = config.with_part(PoolConfig(embed_dim=64, pool_heads=8))
    assert (wider.need(PoolConfig).embed_dim, len(wider.parts)) == (64, len(config.parts))
    assert wider.vision == config.vision


def test_qllama_without_the_pool_is_refused() -> None:
    with pytest.raises(CheckpointError, match="model embed_dim is None; model pool_heads is None"):
        ModelConfig(layout="internvl", parts=(VisionConfig(), QllamaConfig()))
