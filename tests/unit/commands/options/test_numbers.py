"""Every option that takes a number has two bounds, and refuses in one line what lies beyond them."""

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from internvl_edge.cli import main
from internvl_edge.commands.options.numbers import Number
from internvl_edge.commands.options.value_types import Integers, Names

BEYOND = ("-1000000000000000000", "1000000000000000000000000000000", "nan", "inf", "-inf", "1e400", "four", "")


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if not isinstance(command, click.Group):
        yield path, command
        return
    for name, each in command.commands.items():
        yield from commands(each, (*path, name))


def number_options() -> Iterator[tuple[tuple[str, ...], click.Option]]:
    for path, command in commands(main):
        for option in command.params:
            kind = option.type
            if isinstance(option, click.Option) and isinstance(
                kind, click.types.IntParamType | click.types.FloatParamType
            ):
                yield path, option


OPTIONS = {f"{' '.join(path)} {option.opts[-1]}": (path, option) for path, option in number_options()}


@pytest.mark.parametrize("name", OPTIONS)
def test_it_has_two_bounds(name: str) -> None:
    kind = OPTIONS[name][1].type
    assert isinstance(kind, click.IntRange | Number), "a bare number, or a FloatRange, which takes NaN"
    assert kind.min is not None
    assert kind.max is not None
    default = OPTIONS[name][1].get_default(click.Context(main))
    assert not isinstance(default, int | float) or kind.min <= default <= kind.max


@pytest.mark.parametrize("name", OPTIONS)
def test_what_lies_beyond_is_one_line(name: str) -> None:
    path, option = OPTIONS[name]
    for value in BEYOND:
        done = CliRunner().invoke(main, [*path, option.opts[-1], value])
        assert done.exit_code == 2, value
        messages = [line for line in done.output.splitlines() if line.startswith("Error: ")]
        assert len(messages) == 1
        assert option.opts[-1] in messages[0], value


def test_lists_of_numbers_are_told_as_well() -> None:
    lists = [
        (path, each) for path, command in commands(main) for each in command.params if isinstance(each.type, Integers)
    ]
    assert lists
    for path, option in lists:
        for value in ("a", "1,x", "1.5", "nan", "9" * 5000):
            done = CliRunner().invoke(main, [*path, option.opts[-1], value])
            assert done.exit_code == 2, (path, value[:9])
            assert option.opts[-1] in done.output


def test_lists_of_names_are_not_empty() -> None:
    for path, option in [(path, each) for path, command in commands(main) for each in command.params]:
        if isinstance(option.type, Names):
            done = CliRunner().invoke(main, [*path, option.opts[-1], " , "])
            assert done.exit_code == 2, path
            assert "names nothing" in done.output


@pytest.mark.parametrize(
    "asked",
    ["bench B --batch 0", "bench B --batch 1,4097", "package triton B -o o --gpus -1", "bench B --percentile 101"],
)
def test_lists_have_bounds(asked: str) -> None:
    done = CliRunner().invoke(main, asked.split())
    assert done.exit_code == 2
    assert f"Invalid value for '{asked.split()[-2]}'" in done.output
