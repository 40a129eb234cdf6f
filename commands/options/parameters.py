"""Arguments and options that several commands take, and the types of their values."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from internvl_edge.runtime.backends import BACKENDS
from internvl_edge.runtime.byte_sizes import parse_bytes
from internvl_edge.runtime.errors import InputError

if TYPE_CHECKING:
    TextType = click.ParamType[str]
    WordsType = click.ParamType[tuple[str, ...]]
    ShapeType = click.ParamType[tuple[str, tuple[int, ...]]]
    SizeType = click.ParamType[int]
else:  # a class that takes no type parameters before click 8.4
    TextType = WordsType = ShapeType = SizeType = click.ParamType


class GivenPath(click.Path):
    """A path that is not empty: an unset variable of a shell is, and would mean the current folder."""

    def __init__(self, exists: bool = False) -> None:
        super().__init__(exists=exists, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        if value == "":
            self.fail(_EMPTY, param, ctx)
        return super().convert(value, param, ctx)


class Given(TextType):
    """A text that is not empty."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text."""
        if not str(value).strip():
            self.fail(_EMPTY, param, ctx)
        return str(value)


def _limit_pixels(ctx: click.Context, param: click.Parameter, value: int | None) -> None:
    """Set the limit of this process."""
    if value is not None:
        from internvl_edge.runtime.inputs.pictures.decode import limit_pixels

        limit_pixels(value or None)


_EMPTY = "is empty; is a variable of the shell unset?"
MAX_PIXELS = click.option(
    "--max-pixels",
    type=click.IntRange(0, 2**40),
    callback=_limit_pixels,
    expose_value=False,
    help="Pixels that a picture may have; 0: any number.  [default: 89478485]",
)
BUNDLE = click.argument("bundle", type=GivenPath())
IMAGES = click.argument("images", nargs=-1, required=True, type=GivenPath())
BACKEND = click.option(
    "--backend", default="auto", show_default=True, help=f"Library that runs the graphs: {', '.join(BACKENDS)}."
)
BF16 = click.option(
    "--bf16", is_flag=True, help="Let a CPU compute in bf16 where it has units for it: faster, less exact."
)
ACCEPT_CONFIG = click.option(
    "--accept-config",
    multiple=True,
    metavar="FIELD",
    help="Unknown field of the checkpoint's config files to accept as having no effect; repeat for more.",
)
STATE_DICT = click.option(
    "--state-dict",
    metavar="NAME",
    help="Set of weights to take where the checkpoint holds several, as model_ema.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


class Names(WordsType):
    """A comma-separated list, as `vision,text`."""

    name = "NAME[,NAME...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Return the parts without the blanks around them; empty ones are left out, but one must be there."""
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
    """A size of memory, as `12GiB`; the value is in bytes."""

    name = "SIZE"

    def __init__(self, unit: str | None = None, least: int = 1, *, zero: bool = False) -> None:
        """`unit` is that of a bare number (None: it is refused), `least` the smallest size; `zero` allows 0 as well."""
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
