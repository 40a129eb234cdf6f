"""Description of a family of language models: its fields in `config.json`, its defaults and its keys."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from internvl_edge.export.models.families.fields import Field


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageFamily:
    """One family; the decoder is the same for all of them, with switches."""

    name: str
    """Name of the family, which is also its `model_type`."""
    architecture: str
    """Class of the model in ``architectures``, by which the official layout names the family (CHAT.md 2)."""
    defaults: Mapping[str, Any]
    """Defaults of its config class by target names, for the fields that a file leaves out."""
    fields: Mapping[str, Field]
    """Fields that other families do not have."""
    rope_types: tuple[str, ...]
    """Types of scaled rotary angles that its code knows and the graphs have."""
    switches: Callable[[dict[str, Any]], dict[str, Any]]
    """Return the switches of the decoder, and remove what they depend on from the fields."""
    names: tuple[tuple[str, str], ...] = ()
    """Patterns of its keys behind ``language_model.``, with the official names; none if they are LLaMA's."""


def biases_of_attention(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the switches of a family whose attention has biases on all four projections, or on none."""
    biases = fields.pop("attention_bias")
    return {"qkv_bias": biases, "out_bias": biases}
