"""The rotary embedding of a language model, by the rules of its family (CHAT.md 4.7, 4.8)."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from internvl_edge.export.models.config import RopeConfig, RopeKind, positive_int
from internvl_edge.export.models.families.common_fields import CONFIG_FILE
from internvl_edge.export.models.families.fields import FieldReader, FieldTable, Honoured
from internvl_edge.export.models.families.rope import ROPE, rope_objects
from internvl_edge.runtime.errors import CheckpointError

LANGUAGE_ROPE = FieldTable(
    CONFIG_FILE,
    {
        **ROPE.fields,
        "short_factor": Honoured("short_factors"),
        "long_factor": Honoured("long_factors"),
        "original_max_position_embeddings": Honoured("original"),
    },
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """Rule by which one type of scaling is read."""

    kind: RopeKind
    takes: tuple[str, ...]
    """Values that it needs."""
    magnitude: Callable[[float, int], float] | None = None
    """Return the multiplier of cosine and sine, from how far the length is stretched and the original length."""


_SU = ("short_factors", "long_factors", "original")
_RULES: Mapping[str, _Rule] = {
    "default": _Rule(kind="plain", takes=()),
    "linear": _Rule(kind="linear", takes=("factor",)),
    "dynamic": _Rule(kind="dynamic", takes=("factor",)),
    **dict.fromkeys(
        ("su", "longrope"),
        _Rule(
            kind="su",
            takes=_SU,
            magnitude=lambda stretch, original: math.sqrt(1 + math.log(stretch) / math.log(original)),
        ),
    ),
    "yarn": _Rule(kind="su", takes=_SU, magnitude=lambda stretch, original: 0.1 * math.log(stretch) + 1),
}
"""Type -> its rule; ``yarn`` is that of Phi-3's own code, which is not what other families call so."""


def rope_config(fields: dict[str, Any], types: tuple[str, ...], part: str, reader: FieldReader) -> RopeConfig:
    """Return the rule of the rotary angles, and remove all fields about them from `fields`.

    `types` are the types of scaling that the family knows. What is not supported goes to `reader`.

    Raises:
        CheckpointError: a value is no number of its kind.
    """
    original = fields.pop("original", None)
    theta, objects = rope_objects(fields, part, LANGUAGE_ROPE, reader)
    name, values = next(iter(objects.items()), (f"{part}.rope_scaling", {}))
    if len({repr(sorted(read.items())) for read in objects.values()}) > 1:
        reader.find(CONFIG_FILE, f"{' and '.join(objects)} differ, but they mean the same thing")
    if original is not None:
        values.setdefault("original", original)
        if values["original"] != original:
            said = f"{original!r} in {part} and {values['original']!r} in {name}"
            reader.find(CONFIG_FILE, f"original_max_position_embeddings is {said}, but they mean the same thing")
    if "kind" not in values and values.get("factor", 1) != 1:
        reader.find(CONFIG_FILE, f"{name} has a factor of {values['factor']!r}, but no type says of what")
    kind = values.pop("kind", "default")
    base = {"theta": theta} if theta is not None else {}
    if kind not in ("default", *types):
        known = ", ".join(("default", *types))
        reader.find(CONFIG_FILE, f"{name} is of type {kind!r}; the graphs have {known} for this family")
        return RopeConfig(**base)
    return _by_rule(_RULES[kind], kind, values, base, fields["max_positions"], name, reader)


def _by_rule(
    rule: _Rule, kind: str, values: dict[str, Any], base: dict[str, Any], longest: Any, name: str, reader: FieldReader
) -> RopeConfig:
    """Return the rule of type `kind` with its `values`; `longest` is ``max_position_embeddings``."""
    if missing := [value for value in rule.takes if value not in values]:
        raise CheckpointError(f"{name} is of type {kind!r}, which needs {', '.join(missing)}")
    factor = values.get("factor", 1.0)
    if rule.kind == "plain":
        return RopeConfig(**base)
    if rule.kind in ("linear", "dynamic"):
        if values.get("original", longest) != longest:
            reader.find(CONFIG_FILE, f"{name} stretches from {values['original']!r}, not from {longest!r}")
        return RopeConfig(kind=rule.kind, factor=factor, limit=longest, **base)
    original = values["original"]
    if not positive_int(original) or not positive_int(longest) or original < 2:
        raise CheckpointError(f"{name} stretches {original!r} to {longest!r} positions")
    stretch = longest / original
    if "factor" in values and not math.isclose(values["factor"], stretch):
        reader.find(CONFIG_FILE, f"{name} has a factor of {values['factor']!r}, the lengths one of {stretch:g}")
    return RopeConfig(
        kind=rule.kind,
        limit=original,
        short_factors=_numbers(name, "short_factor", values["short_factors"]),
        long_factors=_numbers(name, "long_factor", values["long_factors"]),
        magnitude=rule.magnitude(stretch, original) if rule.magnitude is not None and stretch > 1 else 1.0,
        **base,
    )


def _numbers(name: str, field: str, value: Any) -> tuple[float, ...]:
    """Return the factors of all pairs of channels.

    Raises:
        CheckpointError: they are no list of positive numbers.
    """
    numbers = value if isinstance(value, list) else []
    if not numbers or not all(isinstance(each, (int, float)) and 0 < each < math.inf for each in numbers):
        raise CheckpointError(f"{name}.{field} is {str(value)[:40]}, which is no list of factors")
    return tuple(map(float, numbers))
