"""Read the rotary embedding of QLLaMA from its config, in the fields of all versions of transformers."""

from collections.abc import Mapping
from typing import Any

from internvl_edge.export.models.families.common_fields import CONFIG_FILE
from internvl_edge.export.models.families.fields import FieldReader, FieldTable, Honoured, only

ROPE = FieldTable(
    CONFIG_FILE,
    {
        "rope_type": Honoured("kind"),
        "type": Honoured("kind"),
        "rope_theta": Honoured("theta"),
        "factor": Honoured("factor"),
        "partial_rotary_factor": only(1, finding="rotates a part of each head, the graphs rotate all of it"),
    },
)
"""Fields of ``rope_parameters`` of transformers 5, and of ``rope_scaling`` of earlier versions."""

_UNSCALED = ("default", "dynamic")
"""Supported types; dynamic scaling has no effect up to ``max_position_embeddings``, the most that graphs take."""


def rope_fields(fields: dict[str, Any], reader: FieldReader) -> dict[str, Any]:
    """Return the base of the rotary angles as ``rope_theta``, and remove all fields about them from `fields`.

    Base and scaling are separate in older files (``rope_theta``, ``rope_scaling``) and together in those of
    transformers 5 (``rope_parameters``). Different bases and unsupported scaling are reported to `reader`.
    """
    bases = {"rope_theta": base} if (base := fields.pop("theta", None)) is not None else {}
    for name in ("rope_scaling", "rope_parameters"):
        content = fields.pop(name, None)
        if content is None:
            continue
        if not isinstance(content, Mapping):
            reader.find(CONFIG_FILE, f"qllama_config.{name} is {content!r}, which is no object")
            continue
        read = reader.read(ROPE, content, f"qllama_config.{name}")
        factor, kind = read.get("factor"), read.get("kind", "default")
        if "kind" not in read and factor not in (None, 1):
            reader.find(CONFIG_FILE, f"qllama_config.{name} has a factor of {factor!r}, but no type says of what")
        elif kind not in _UNSCALED and (kind, factor) != ("linear", 1):
            reader.find(CONFIG_FILE, f"qllama_config.{name} is of type {kind!r}, but the angles are not scaled")
        if "theta" in read:
            bases[f"{name}.rope_theta"] = read["theta"]
    if not bases:
        return {}
    first = next(iter(bases.values()))
    if any(base != first for base in bases.values()):
        said = " and ".join(f"{name} {base!r}" for name, base in bases.items())
        reader.find(CONFIG_FILE, f"qllama_config has {said}, but they mean the same thing")
    return {"rope_theta": first}
