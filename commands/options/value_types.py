"""Types of the values that arguments and options take: paths, texts, lists, shapes and sizes of memory."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from internvl_edge.runtime.byte_sizes import parse_bytes
from internvl_edge.runtime.errors import InputError

if TYPE_CHECKING:
    TextType = click.ParamType[str]
    WordsType = click.ParamType[tuple[str, ...]]
    ShapeType = click.ParamType[tuple[str, tuple[int, ...]]]
    SizeType = click.ParamType[int]
else:  # a class that takes no type parameters before click 8.4
    TextType = WordsType = ShapeType = SizeType = click.ParamType

_EMPTY = "is empty; is a variable of the shell unset?"


class GivenPath(click.Path):
    """A path that is not empty: an unset variable of a shell gives an empty one, which means the current folder."""

    def __init__(self, exists: bool = False) -> None:
        super().__init__(exists=exists, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        if value == "":
            self.fail(_EMPTY, param, ctx)
        return super().convert(value, param, ctx)


class Given(TextType):
    """A text with at least one letter that is not white space."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text."""
        if not str(value).strip():
            self.fail(_EMPTY, param, ctx)
        return str(value)


class Names(WordsType):
    """A comma-separated list of names, as `vision,text`."""

    name = "NAME[,NAME...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Return the names without white space around them; empty ones are left out, and one must be there."""
        if isinstance(value, tuple):
            return value
        if not (parts := tuple(part.strip() for part in str(value).split(",") if part.strip())):
            self.fail(f"{value!r} names nothing; leave the option out for its default", param, ctx)
        return parts


class Integers(Names):
    """A comma-separated list of integers, as `11,23,35,47`."""

    name = "N[,N...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:  # type: ignore[override]
        """Return the numbers."""
        try:
            return tuple(int(part) for part in super().convert(value, param, ctx))
        except ValueError:
            self.fail(f"{value!r} is not a list of integers", param, ctx)


class Shape(ShapeType):
    """An input and its shape, as `pixel_values=1x3x224x224`."""

    name = "NAME=DIMS"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[int, ...]]:
        """Return the input's name and its dimensions."""
        name, _, dims = str(value).rpartition("=")
        try:
            return name, tuple(int(dim) for dim in dims.split("x"))
        except ValueError:
            self.fail(f"{value!r} is not NAME=1x3x224x224", param, ctx)


class ByteSize(SizeType):
    """A size of memory, as `12GiB`, converted to bytes."""

    name = "SIZE"

    def __init__(self, unit: str | None = None, least: int = 1, *, zero: bool = False) -> None:
        """Set the bounds of the sizes that are taken.

        Args:
            unit: Unit of a number that is given without one; None refuses such a number.
            least: Smallest size, in bytes.
            zero: Whether 0 is taken as well.
        """
        self._unit, self._least, self._zero = unit, least, zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the bytes."""
        if isinstance(value, int):
            return value
        try:
            if self._zero and parse_bytes(str(value), self._unit, 0) == 0:
                return 0
            return parse_bytes(str(value), self._unit, self._least)
        except InputError as error:
            self.fail(f"{error}{', or 0' if self._zero else ''}", param, ctx)


FILE = click.Path(dir_okay=False, path_type=Path)
"""Path of a file that is read or written."""
