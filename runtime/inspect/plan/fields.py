"""Parser of a program's text: sections ``name { ... }`` with entries ``kind={ key=value ... }``."""

import re
from collections.abc import Iterator

Value = str | tuple[str, ...]

_ENTRY = re.compile(r"^  (\w+) ?= ?\{", re.MULTILINE)
_FIELD = re.compile(
    r'(\w+) ?= ?(?:"(?P<quoted>[^"]*)"|\{(?P<group>(?:"[^"]*"|[^"{}]|\{[^{}]*\})*)\}|(?P<bare>[^\s{}"]+))'
)
_ITEM = re.compile(r'"([^"]*)"|([^\s"]+)')
_LAYER = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


def section(text: str, name: str) -> tuple[str, bool] | None:
    """Return the content of section `name` (header, descriptors, main, shape_main), and whether it is closed."""
    opened = re.search(rf"^{name} \{{[^\n]*\n", text, re.MULTILINE)
    if opened is None:
        return None
    closed = re.search(r"^\}", text[opened.end() :], re.MULTILINE)
    return text[opened.end() :][: closed.start() if closed else None], closed is not None


def entries(body: str) -> Iterator[tuple[str, dict[str, Value]]]:
    """Yield kind and fields of each entry of a section, in order."""
    starts = list(_ENTRY.finditer(body))
    ends = [*(start.start() for start in starts[1:]), len(body)]
    for start, end in zip(starts, ends, strict=False):
        yield start[1], fields(body[start.end() : end])


def fields(body: str) -> dict[str, Value]:
    """Return ``key=value`` pairs; a group ``{ "a" 3 }`` becomes a tuple of its items, any other value a string."""
    found: dict[str, Value] = {}
    for match in _FIELD.finditer(body):
        group = match["group"]
        value = match["quoted"] if match["quoted"] is not None else match["bare"]
        found.setdefault(match[1], value if group is None else tuple(a or b for a, b in _ITEM.findall(group)))
    return found


def one(value: Value | None) -> str:
    """Return a field with one string; an empty string if it is absent or a group."""
    return value if isinstance(value, str) else ""


def many(value: Value | None) -> tuple[str, ...]:
    """Return a field with a group; an empty tuple if it is absent or a string."""
    return value if isinstance(value, tuple) else ()


def number(value: Value | None) -> int | None:
    """Return a field with a decimal number of at most 18 digits, otherwise None."""
    text = one(value)
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def layer_names(value: Value | None) -> tuple[str, ...]:
    """Return the names of the ONNX nodes in a ``layers`` field, each once."""
    return tuple(dict.fromkeys(_LAYER.findall(one(value))))
