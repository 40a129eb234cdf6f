"""The connector of a chat checkpoint, pixel shuffle and mlp1: its fields in `config.json` and its tensors."""

from collections.abc import Mapping, Sequence

from internvl_edge.export.models.config import ConnectorConfig, ModelConfig, PartConfig
from internvl_edge.export.models.connector import connector_mlp
from internvl_edge.export.models.families.common_fields import CONFIG_FILE
from internvl_edge.export.models.families.family import ConfigSource, Family, Module, part_of
from internvl_edge.export.models.families.fields import FieldTable, Honoured
from internvl_edge.runtime.errors import CheckpointError

_MOST_TILES = 6
"""Most tiles of a picture in the reference if the file asks for tiles but states no number."""

LANGUAGE_MODEL = FieldTable(CONFIG_FILE, {"hidden_size": Honoured("hidden_size")}, others="harmless")
"""Fields of ``llm_config``; the connector needs only the width of the language model, which no graph contains."""


def _read(source: ConfigSource, parts: Sequence[PartConfig]) -> ConnectorConfig:
    top, content = source.top, source.part("llm_config")
    language_model = source.reader.read(LANGUAGE_MODEL, content, "llm_config")
    if "hidden_size" not in language_model:
        nested = part_of(content, "text_config")
        language_model = source.reader.read(LANGUAGE_MODEL, nested, "llm_config.text_config")
    width = language_model.get("hidden_size", top.get("hidden_size"))
    if width is None:
        raise CheckpointError("the language model's hidden_size is missing")
    names = ("downsample", "ps_version", "select_layer", "fewest_tiles", "most_tiles", "thumbnail")
    fields = {"most_tiles": _MOST_TILES} | {name: top[name] for name in names if name in top}
    if not top.get("dynamic", False):
        fields |= {"fewest_tiles": 1, "most_tiles": 1}
    return ConnectorConfig(**fields, llm_hidden_size=width)


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
)
