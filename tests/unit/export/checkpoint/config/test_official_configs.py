"""Every config of a released kind is read without a finding, and gives the sizes that it names."""

import json
from pathlib import Path
from typing import Any

import pytest

from internvl_edge.export.checkpoint.config.companions import GENERATION, TOKENIZER
from internvl_edge.export.checkpoint.config.config_json import config_from_json, read_config
from internvl_edge.export.models.config import ConnectorConfig
from internvl_edge.export.models.families.fields import FieldReader
from tests.project import ROOT

CONFIGS = [
    *sorted((ROOT / "tests" / "data" / "configs").glob("*.json")),
    *sorted((ROOT / "tests" / "data" / "golden").rglob("config.json")),
    *sorted((ROOT / "tests" / "golden" / "chat").rglob("config.json")),
    ROOT / "examples" / "emoji" / "checkpoint" / "config.json",
]


def _content(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_config_of_a_released_kind_is_read_without_a_word(path: Path) -> None:
    reader, content = FieldReader(), _content(path)
    config = read_config(content, reader)
    assert reader.finish() == ()
    vision = content.get("vision_config", content)
    assert config.model.vision.hidden_size == vision["hidden_size"]
    assert config.model.vision.num_heads == vision["num_attention_heads"]
    size = content.get("force_image_size") or vision["image_size"]
    assert config.model.vision.image_size == (size[0] if isinstance(size, list) else size)
    assert (config.backbone_lora, config.qllama_lora) == (0, 0)


def test_there_are_configs_of_every_family() -> None:
    families = [config_from_json(_content(path)).layout for path in CONFIGS]
    assert {family: families.count(family) for family in families} == {
        "internvl_chat": 13,
        "internvl_hf": 4,
        "internvl": 4,
        "internvit": 1,
    }


@pytest.mark.parametrize("table", [GENERATION, TOKENIZER], ids=lambda table: table.file)
def test_the_files_beside_the_official_weights_are_read_without_a_word(table: Any) -> None:
    places = ROOT / "tests" / "data", ROOT / "examples" / "emoji"
    files = [path for place in places for path in place.glob(f"**/checkpoint/{table.file}")]
    assert len(files) >= 2
    for path in files:
        reader = FieldReader()
        reader.read(table, _content(path))
        assert reader.finish() == ()


def test_a_released_chat_config_gives_tower_and_connector() -> None:
    config = config_from_json(_content(ROOT / "tests" / "data" / "configs" / "internvl3-1b.json"))
    vision = config.vision
    assert (vision.hidden_size, vision.num_heads, vision.num_layers, vision.tokens) == (1024, 16, 24, 1025)
    assert (vision.norm_type, vision.qkv_bias, vision.qk_norm, vision.eps) == ("layer_norm", True, False, 1e-6)
    assert (config.need(ConnectorConfig).ps_version, config.need(ConnectorConfig).select_layer) == ("v2", -1)
    assert (config.need(ConnectorConfig).downsample, config.need(ConnectorConfig).llm_hidden_size) == (0.5, 896)
