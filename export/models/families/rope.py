"""Read the rotary embedding from a config, in the fields of all versions of transformers."""

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
"""Types that QLLaMA may have; dynamic scaling has no effect up to ``max_position_embeddings``, the most it takes."""


def rope_fields(fields: dict[str, Any], reader: FieldReader) -> dict[str, Any]:
    """Return the base of QLLaMA's rotary angles as ``rope_theta``, and remove all fields about them from `fields`.

    Different bases and unsupported scaling are reported to `reader`.
    """
    base, objects = rope_objects(fields, "qllama_config", ROPE, reader)
    for name, read in objects.items():
        factor, kind = read.get("factor"), read.get("kind", "default")
        if "kind" not in read and factor not in (None, 1):
            reader.find(CONFIG_FILE, f"{name} has a factor of {factor!r}, but no type says of what")
        elif kind not in _UNSCALED and (kind, factor) != ("linear", 1):
            reader.find(CONFIG_FILE, f"{name} is of type {kind!r}, but the angles are not scaled")
    return {} if base is None else {"rope_theta": base}


def rope_objects(
    fields: dict[str, Any], part: str, table: FieldTable, reader: FieldReader
) -> tuple[Any, dict[str, dict[str, Any]]]:
    """Return the base of the angles or None, and the other values of each object about them by its full name.

    Base and scaling are separate in older files (``rope_theta``, ``rope_scaling``) and together in those of
    transformers 5 (``rope_parameters``). All of them are removed from `fields`; different bases are reported.
    """
    bases = {"rope_theta": base} if (base := fields.pop("theta", None)) is not None else {}
    objects: dict[str, dict[str, Any]] = {}
    for name in ("rope_scaling", "rope_parameters"):
        content = fields.pop(name, None)
        if content is None:
            continue
        if not isinstance(content, Mapping):
            reader.find(CONFIG_FILE, f"{part}.{name} is {content!r}, which is no object")
            continue
        objects[f"{part}.{name}"] = read = reader.read(table, content, f"{part}.{name}")
        if (base := read.pop("theta", None)) is not None:
            bases[f"{name}.rope_theta"] = base
    first = next(iter(bases.values()), None)
    if any(base != first for base in bases.values()):
        said = " and ".join(f"{name} {base!r}" for name, base in bases.items())
        reader.find(CONFIG_FILE, f"{part} has {said}, but they mean the same thing")
    return first, objects
