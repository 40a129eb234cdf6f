"""The language model of a chat checkpoint: its fields in `config.json`, its tensors and their keys."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from internvl_edge.export.models.config import ConnectorConfig, LanguageConfig, ModelConfig, PartConfig, positive_int
from internvl_edge.export.models.families.common_fields import CONFIG_FILE
from internvl_edge.export.models.families.family import ConfigSource, Family, Module, Shapes
from internvl_edge.export.models.families.fields import FieldTable
from internvl_edge.export.models.families.language import LANGUAGE_FAMILIES
from internvl_edge.export.models.families.language.fields import SHARED, check_window
from internvl_edge.export.models.families.language.rope import rope_config
from internvl_edge.export.models.families.language.support import ROUTED, family_of, reason_without
from internvl_edge.export.models.language import LanguageModel
from internvl_edge.runtime.errors import CheckpointError

_NEEDED = ("hidden_size", "num_heads", "num_layers", "intermediate_size", "vocab_size", "eps", "max_positions")
"""Target names of the fields that a file states or its family has a default for."""
LANGUAGE_BLOCK = "language_model.model.layers.{}"
"""Module path of a layer."""
EMBEDDING = "language_model.model.embed_tokens.weight"
"""Official name of the table of token embeddings."""
_HEAD = "language_model.lm_head.weight"


def why_without(source: ConfigSource) -> str | None:
    """Return why the language model that a `config.json` describes has no graph; None if it has one or is none."""
    if (part := source.language_part) is None:
        return None
    if source.top.get("flash"):
        return ROUTED
    if source.top.get("llm_lora"):
        return f"use_llm_lora is {source.top['llm_lora']!r}, so that its adapters are not merged; merge them with PEFT"
    return reason_without(source.part(part), part)


def _read(source: ConfigSource, parts: Sequence[PartConfig]) -> LanguageConfig | None:
    part, reader = source.language_part, source.reader
    family = family_of(source.part(part), part) if part is not None and why_without(source) is None else None
    if part is None or family is None:
        return None
    table = FieldTable(CONFIG_FILE, {**SHARED, **family.fields})
    fields = {**family.defaults, **reader.read(table, source.part(part), part)}
    if (connector := next((own for own in parts if isinstance(own, ConnectorConfig)), None)) is not None:
        fields["hidden_size"] = connector.llm_hidden_size  # it may stand at the top level alone
    if missing := [name for name in _NEEDED if name not in fields]:
        raise CheckpointError(f"{part} lacks {', '.join(missing)}, for which {family.name} has no known default")
    check_window(fields, part, reader)
    rope = rope_config(fields, family.rope_types, part, reader)
    fields |= family.switches(fields)
    fields.setdefault("num_kv_heads", fields["num_heads"])
    if "head_dim" not in fields and all(positive_int(fields[name]) for name in ("hidden_size", "num_heads")):
        fields["head_dim"], rest = divmod(fields["hidden_size"], fields["num_heads"])
        if rest:
            reader.find(CONFIG_FILE, f"{part} {fields['num_heads']} heads do not divide {fields['hidden_size']}")
    return LanguageConfig(family=family.name, rope=rope, **{"head_dim": 0, **fields})


def _as_stored(model: ModelConfig, shapes: Shapes) -> LanguageConfig:
    """Return the language model with the rows of the stored table, and with a tied head if none is stored."""
    config = model.need(LanguageConfig)
    rows = shapes[EMBEDDING][0] if len(shapes.get(EMBEDDING, ())) == 2 else config.vocab_size
    return replace(config, vocab_size=rows, tied_head=_HEAD not in shapes)


def _modules(model: ModelConfig) -> Mapping[str, Module]:
    return {"language_model": LanguageModel(model.need(LanguageConfig))}


LANGUAGE_MODEL = Family(
    name="llm",
    kind=LanguageConfig,
    tensors=("language_model",),
    read=_read,
    from_shapes=lambda stored, parts: None,
    in_plain_file=lambda model, shapes: None,
    as_stored=_as_stored,
    modules=_modules,
    other_names=(
        (re.compile(r"^model\.language_model\."), "language_model.model."),
        (re.compile(r"^lm_head\."), "language_model.lm_head."),
        *(
            (re.compile(rf"^language_model\.{pattern}"), rf"language_model.{official}")
            for family in LANGUAGE_FAMILIES
            for pattern, official in family.names
        ),
    ),
    unused=(r"^language_model\..*rotary_emb\.(inv_freq|cos_cached|sin_cached)$",),
)
