"""Read `config.json`: each part by its family, with the findings of all parts collected in one reader."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from internvl_edge.export.checkpoint.config.config_tables import CHAT, INTERNVL, NATIVE
from internvl_edge.export.models.config import Layout, ModelConfig, PartConfig, positive_int
from internvl_edge.export.models.families.common_fields import CONFIG_FILE
from internvl_edge.export.models.families.connector import CONNECTOR
from internvl_edge.export.models.families.family import ConfigSource, Family, TokenId
from internvl_edge.export.models.families.fields import FieldReader, FieldTable
from internvl_edge.export.models.families.internvit import INTERNVIT, VISION
from internvl_edge.export.models.families.language_model import LANGUAGE_MODEL, why_without
from internvl_edge.export.models.families.pool import POOL
from internvl_edge.export.models.families.qllama import QLLAMA_FAMILY
from internvl_edge.runtime.errors import CheckpointError

T = TypeVar("T")

LAYOUTS: Mapping[Layout, tuple[FieldTable, tuple[Family, ...]]] = {
    "internvl": (INTERNVL, (INTERNVIT, QLLAMA_FAMILY, POOL)),
    "internvl_chat": (CHAT, (INTERNVIT, CONNECTOR, LANGUAGE_MODEL)),
    "internvl_hf": (NATIVE, (INTERNVIT, CONNECTOR, LANGUAGE_MODEL)),
    "internvit": (VISION, (INTERNVIT,)),
}
"""Layout of a `config.json` -> table of its top-level fields, and the families of its parts with the tower first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFile:
    """Content of a `config.json`: the model, and the ranks of LoRA adapters."""

    model: ModelConfig
    backbone_lora: int = 0
    """Rank of the tower's adapters that are not merged yet, from the field ``use_backbone_lora``."""
    qllama_lora: int = 0


def read_config(
    content: Mapping[str, Any],
    reader: FieldReader,
    token_id: TokenId = lambda text: None,
    language: bool = True,
) -> ConfigFile:
    """Return the content of a Hugging Face `config.json`.

    Without `language`, findings about a language model are no fault: the model then has none, and says why.

    Raises:
        CheckpointError: the model is not supported; all findings of `reader` are in the message.
    """
    layout = _layout(content)
    table, families = LAYOUTS[layout]
    source = ConfigSource(layout=layout, top=reader.read(table, content), reader=reader, token_id=token_id)
    parts: list[PartConfig] = []
    findings: str | None = None
    for family in families:
        if family is LANGUAGE_MODEL and not language:
            part, findings = _tried(family, source, parts)
        else:
            part = _read(family, source, parts)
        parts += [part] if part is not None else []
    ranks = {name: _rank(source.top, name, reader) for name in ("backbone_lora", "qllama_lora")}
    if CONFIG_FILE in reader.findings:
        reader.fail()
    without = findings or _collect(reader, lambda: why_without(source))
    model = _collect(reader, lambda: ModelConfig(layout=layout, parts=tuple(parts), without_llm=without))
    if model is None:
        reader.fail()
    return ConfigFile(model=model, **ranks)


def config_from_json(content: Mapping[str, Any]) -> ModelConfig:
    """Return the model that a Hugging Face `config.json` describes.

    Raises:
        CheckpointError: the model is not supported, or a field is unknown; the message has all findings.
    """
    reader = FieldReader()
    config = read_config(content, reader).model
    reader.finish()
    return config


def _layout(content: Mapping[str, Any]) -> Layout:
    kind = content.get("model_type")
    if kind == "internvl" and "text_config" in content:
        return "internvl_hf"
    if kind == "intern_vit_6b":
        return "internvit"
    if kind == "internvl_chat" or "llm_config" in content:
        return "internvl_chat"
    if kind == "internvl" or "qllama_config" in content:
        return "internvl"
    if "mm_vision_tower" in content:
        raise CheckpointError(
            f"{CONFIG_FILE}: is a chat model in LLaVA's layout, as InternVL-Chat V1.0, whose tower "
            f"{content['mm_vision_tower']} is a checkpoint of its own; give that one, or InternVL-Chat-V1-1 and later"
        )
    raise CheckpointError(
        f"{CONFIG_FILE}: model_type {kind!r} is unknown; give an InternVL-14B, InternViT or InternVL-Chat checkpoint"
    )


def _read(family: Family, source: ConfigSource, parts: Sequence[PartConfig]) -> PartConfig | None:
    return _collect(source.reader, lambda: family.read(source, parts))


def _tried(family: Family, source: ConfigSource, parts: Sequence[PartConfig]) -> tuple[PartConfig | None, str | None]:
    """Return the part, or None with all that its fields have against it."""
    own = FieldReader(source.reader.accept)
    part = _read(family, replace(source, reader=own), parts)
    try:
        source.reader.accepted += own.finish()
    except CheckpointError as error:
        return None, str(error)
    return part, None


def _rank(top: Mapping[str, Any], name: str, reader: FieldReader) -> int:
    rank = top.get(name, 0)
    if rank and not positive_int(rank):
        reader.find(CONFIG_FILE, f"use_{name} is {rank!r}, which is no rank")
        return 0
    return int(rank)


def _collect(reader: FieldReader, build: Callable[[], T]) -> T | None:
    """Return the result of `build`, or None after passing its error to `reader`."""
    try:
        return build()
    except CheckpointError as error:
        reader.find(CONFIG_FILE, str(error))
        return None
