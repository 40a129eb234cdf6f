"""The connector of a chat checkpoint, pixel shuffle and mlp1: its fields in `config.json` and its tensors."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from internvl_edge.export.models.config import ConnectorConfig, ModelConfig, PartConfig
from internvl_edge.export.models.connector import connector_mlp
from internvl_edge.export.models.families.common_fields import CONFIG_FILE
from internvl_edge.export.models.families.family import ConfigSource, Family, Module, part_of
from internvl_edge.export.models.families.fields import FieldTable, Honoured
from internvl_edge.export.models.families.language.support import family_of
from internvl_edge.runtime.errors import CheckpointError

_NATIVE_NAMES = {"layer_norm": "mlp1.0.", "linear_1": "mlp1.1.", "linear_2": "mlp1.3."}
"""Module of the connector in transformers' own port -> its official prefix (CHAT.md 3)."""
_MOST_NATIVE_TILES = 12
"""Most tiles of a picture in transformers' own port if no file states a number."""
_MOST_TILES = 6
"""Most tiles of a picture in the reference if the file asks for tiles but states no number."""

ROUTER = r"^(?:model\.)?(?:mlp2|pooling_before_gating|gating)\."
"""Pattern of the tensors of a router, which gives a tile 64 or 256 tokens and is in no graph (CHAT.md 1)."""
WIDTH = FieldTable(CONFIG_FILE, {"hidden_size": Honoured("hidden_size")}, others="harmless")
"""The one field of the language model that the connector needs."""


def _read(source: ConfigSource, parts: Sequence[PartConfig]) -> ConnectorConfig:
    top, part = source.top, source.language_part or ""
    content = source.part(part)
    language_model = source.reader.read(WIDTH, content, part)
    if "hidden_size" not in language_model:
        nested = part_of(content, "text_config")
        language_model = source.reader.read(WIDTH, nested, f"{part}.text_config")
    family = family_of(content, part)
    by_default = family.defaults.get("hidden_size") if family is not None else None
    width = language_model.get("hidden_size", top.get("hidden_size", by_default))
    if width is None:
        raise CheckpointError("the language model's hidden_size is missing")
    if source.layout == "internvl_hf":
        said = {name: top[name] for name in ("downsample", "select_layer") if name in top}
        return ConnectorConfig(**said, ps_version="v2", llm_hidden_size=width)
    names = ("downsample", "ps_version", "select_layer", "fewest_tiles", "most_tiles", "thumbnail")
    fields = {"most_tiles": _MOST_TILES} | {name: top[name] for name in names if name in top}
    if not top.get("dynamic", False):
        fields |= {"fewest_tiles": 1, "most_tiles": 1}
    return ConnectorConfig(**fields, llm_hidden_size=width)


def tiled(model: ModelConfig, fewest: int = 1, most: int = _MOST_NATIVE_TILES) -> ModelConfig:
    """Return a model of transformers' own port with the limits of its pictures' processor (CHAT.md 8).

    Raises:
        CheckpointError: the limits contradict each other.
    """
    connector = model.need(ConnectorConfig)
    return model.with_part(replace(connector, fewest_tiles=fewest, most_tiles=most, thumbnail=True))


def _modules(model: ModelConfig) -> Mapping[str, Module]:
    return {"mlp1": connector_mlp(model.need(ConnectorConfig), model.vision.hidden_size)}


CONNECTOR = Family(
    name="connector",
    kind=ConnectorConfig,
    tensors=("mlp1",),
    read=_read,
    from_shapes=lambda stored, parts: None,
    in_plain_file=lambda model, shapes: None,
    modules=_modules,
    unused=(ROUTER,),
    other_names=tuple(
        (re.compile(rf"^(?:model\.)?multi_modal_projector\.{name}\."), official)
        for name, official in _NATIVE_NAMES.items()
    ),
)
