"""`config.json` to the model's description: every part read by its table, all findings gathered in one reader."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from internvl_edge.export.checkpoint.config_tables import CHAT, CONFIG_FILE, INTERNVL, LANGUAGE_MODEL, QLLAMA, VISION
from internvl_edge.export.checkpoint.fields import FieldReader
from internvl_edge.export.checkpoint.rope import rope_fields
from internvl_edge.export.config import (
    ConnectorConfig,
    Family,
    ModelConfig,
    QllamaConfig,
    VisionConfig,
    positive_int,
)
from internvl_edge.runtime.errors import CheckpointError

T = TypeVar("T")
TokenId = Callable[[str], int | None]
"""Gives the id of a token's text, or None where the tokenizer has no such token."""
_MOST_TILES = 6
"""What the reference cuts pictures into where a file cuts them, and does not say into how many tiles."""
_NO_TOKEN = -1
"""What older files write where there is no such token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFile:
    """What a `config.json` says."""

    model: ModelConfig
    backbone_lora: int = 0
    """Rank of the adapters that the tower's weights still carry, by the reference's own field."""
    qllama_lora: int = 0


def read_config(content: Mapping[str, Any], reader: FieldReader, token_id: TokenId = lambda text: None) -> ConfigFile:
    """Return what a Hugging Face `config.json` describes.

    Raises:
        CheckpointError: what this compiler does not know how to build, all of it in one line, with what the reader has.
    """
    family = _family(content)
    table = {"internvl": INTERNVL, "internvl_chat": CHAT, "internvit": VISION}[family]
    top = reader.read(table, content)
    vision = _collect(reader, lambda: _vision(top, family, reader))
    qllama = _collect(reader, lambda: _qllama(top, reader, token_id)) if family == "internvl" else None
    connector = _collect(reader, lambda: _connector(top, reader)) if family == "internvl_chat" else None
    ranks = {name: _rank(top, name, reader) for name in ("backbone_lora", "qllama_lora")}
    if vision is None or CONFIG_FILE in reader.findings:
        reader.fail()
    model = _collect(reader, lambda: _model(top, family, vision, qllama, connector))
    if model is None:
        reader.fail()
    return ConfigFile(model=model, **ranks)


def config_from_json(content: Mapping[str, Any]) -> ModelConfig:
    """Return the model that a Hugging Face `config.json` describes, unknown fields refused.

    Raises:
        CheckpointError: what this compiler does not know how to build, all of it in one line.
    """
    reader = FieldReader()
    config = read_config(content, reader).model
    reader.finish()
    return config


def _family(content: Mapping[str, Any]) -> Family:
    kind = content.get("model_type")
    if kind == "internvl" and "text_config" in content:
        raise CheckpointError(f"{CONFIG_FILE}: is transformers' own port of InternVL; give the original checkpoint")
    if kind == "intern_vit_6b":
        return "internvit"
    if kind == "internvl_chat" or "llm_config" in content:
        return "internvl_chat"
    if kind == "internvl" or "qllama_config" in content:
        return "internvl"
    raise CheckpointError(
        f"{CONFIG_FILE}: model_type {kind!r} is unknown; give an InternVL-14B, InternViT or InternVL-Chat checkpoint"
    )


def _model(
    top: Mapping[str, Any],
    family: Family,
    vision: VisionConfig,
    qllama: QllamaConfig | None,
    connector: ConnectorConfig | None,
) -> ModelConfig:
    return ModelConfig(
        family=family,
        vision=vision,
        qllama=qllama and replace(qllama, vision_hidden_size=vision.hidden_size),
        embed_dim=top.get("embed_dim", 768) if family == "internvl" else None,
        pool_heads=top.get("pool_heads", 16) if family == "internvl" else None,
        connector=connector,
    )


def _vision(top: Mapping[str, Any], family: Family, reader: FieldReader) -> VisionConfig:
    part = "" if family == "internvit" else "vision_config"
    fields = dict(top) if family == "internvit" else reader.read(VISION, _part(top, part), part)
    heads = _taken(fields, "key_value_heads"), _taken(fields, "head_dim")
    image_size = {} if family == "internvit" or "image_size" not in top else {"image_size": top["image_size"]}
    config = VisionConfig(**fields | image_size)
    _check_heads("vision", config, *heads, reader)
    return config


def _qllama(top: Mapping[str, Any], reader: FieldReader, token_id: TokenId) -> QllamaConfig:
    content = _part(top, "qllama_config")
    if not content:
        raise CheckpointError("qllama_config is missing")
    fields = reader.read(QLLAMA, content, "qllama_config")
    _check_window(fields, reader)
    heads = _taken(fields, "key_value_heads"), _taken(fields, "head_dim")
    fields |= rope_fields(fields, reader)
    for name in ("bos", "eos", "pad"):
        ids = [value for value in _taken(fields, name) or () if value != _NO_TOKEN]
        if ids and (known := _one_id(f"qllama_config.{name}_token_id", ids, token_id, reader)) is not None:
            fields[f"{name}_token_id"] = known
    if "num_queries" in top:
        fields["num_queries"] = top["num_queries"]
    frequency = top.get("frequency", 2)
    if not positive_int(frequency):
        raise CheckpointError(f"cross_attention_frequency is {frequency!r}")
    config = QllamaConfig(**fields)
    _check_heads("qllama", config, *heads, reader)
    return replace(config, cross_attention_layers=tuple(range(0, config.num_layers, frequency)))


def _connector(top: Mapping[str, Any], reader: FieldReader) -> ConnectorConfig:
    language_model = reader.read(LANGUAGE_MODEL, _part(top, "llm_config"), "llm_config")
    if "hidden_size" not in language_model:
        nested = _part(_part(top, "llm_config"), "text_config")
        language_model = reader.read(LANGUAGE_MODEL, nested, "llm_config.text_config")
    width = language_model.get("hidden_size", top.get("hidden_size"))
    if width is None:
        raise CheckpointError("the language model's hidden_size is missing")
    names = ("downsample", "ps_version", "select_layer", "fewest_tiles", "most_tiles", "thumbnail")
    fields = {"most_tiles": _MOST_TILES} | {name: top[name] for name in names if name in top}
    if not top.get("dynamic", False):
        fields |= {"fewest_tiles": 1, "most_tiles": 1}
    return ConnectorConfig(**fields, llm_hidden_size=width)


def _check_heads(
    part: str, config: VisionConfig | QllamaConfig, key_value_heads: Any, head_dim: Any, reader: FieldReader
) -> None:
    if key_value_heads not in (None, config.num_heads):
        reader.find(CONFIG_FILE, f"{part} {config.num_heads} heads share {key_value_heads} grouped key/value heads")
    if head_dim not in (None, config.head_dim):
        reader.find(
            CONFIG_FILE, f"{part} head_dim is {head_dim!r}, but each of {config.num_heads} heads has {config.head_dim}"
        )


def _check_window(fields: dict[str, Any], reader: FieldReader) -> None:
    """Find attention to a window of the text, unless every text that fits the model fits the window."""
    window, used = _taken(fields, "sliding_window"), _taken(fields, "use_sliding_window")
    if window is None or used is False:
        return
    if not positive_int(window) or window < fields.get("max_positions", QllamaConfig().max_positions):
        reader.find(CONFIG_FILE, f"qllama sliding_window is {window!r}, but the graphs attend to the whole text")


def _one_id(name: str, ids: list[int | str], token_id: TokenId, reader: FieldReader) -> int | None:
    """Return the one id that `ids` stand for, or keep that they are several or a text that is no token."""
    found = {token_id(value) if isinstance(value, str) else value for value in ids}
    if None in found:
        texts = [value for value in ids if isinstance(value, str)]
        reader.find(CONFIG_FILE, f"{name} is {', '.join(map(repr, texts))}, which is no token of the tokenizer.model")
        return None
    if len(found) > 1:
        reader.find(CONFIG_FILE, f"{name} is {ids}, but captions know one id")
    return found.pop()


def _rank(top: Mapping[str, Any], name: str, reader: FieldReader) -> int:
    rank = top.get(name, 0)
    if rank and not positive_int(rank):
        reader.find(CONFIG_FILE, f"use_{name} is {rank!r}, which is no rank")
        return 0
    return int(rank)


def _part(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = content.get(name) or {}
    if not isinstance(part, Mapping):
        raise CheckpointError(f"{name} is no object")
    return part


def _taken(fields: dict[str, Any], name: str) -> Any:
    """Return the value of a field and remove it; None where there is none."""
    return fields.pop(name, None)


def _collect(reader: FieldReader, build: Callable[[], T]) -> T | None:
    """Return what `build` builds, or keep what is wrong with it."""
    try:
        return build()
    except CheckpointError as error:
        reader.find(CONFIG_FILE, str(error))
        return None
