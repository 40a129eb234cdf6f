"""HTML and SVG with escaping of texts."""

from collections.abc import Iterable
from html import escape


class Markup(str):
    """Text in HTML, which is not escaped again."""

    __slots__ = ()


def filled(template: str, *values: object, **named: object) -> Markup:
    """Return `template` formatted as by `str.format`; texts that are no `Markup` are escaped."""
    return Markup(template.format(*map(_escaped, values), **{name: _escaped(value) for name, value in named.items()}))


def joined(parts: Iterable[str], between: str = "") -> Markup:
    """Return `parts` joined; texts that are no `Markup` are escaped."""
    return Markup(between.join(str(_escaped(part)) for part in parts))


def _escaped(value: object) -> object:
    return escape(value) if isinstance(value, str) and not isinstance(value, Markup) else value
