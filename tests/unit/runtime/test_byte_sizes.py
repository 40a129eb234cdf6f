"""Sizes in words, and the options that take them."""

import click
import pytest
from click.testing import CliRunner

from internvl_edge.cli import main
from internvl_edge.commands.options.value_types import ByteSize
from internvl_edge.runtime.byte_sizes import bytes_text, parse_bytes
from internvl_edge.runtime.errors import InputError

MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "found"),
    [("12GiB", 12 << 30), ("800mib", 800 << 20), ("16GB", 16 * 10**9), ("1.5G", 1_500_000_000), ("4096 B", 4096)],
)
def test_sizes(text: str, found: int) -> None:
    assert parse_bytes(text) == found
    assert parse_bytes(text, "MiB") == found, "a written unit counts, whatever the option's name says"


@pytest.mark.parametrize("text", ["", "GiB", "12 cows", "-1GiB", "12TiB", "0x10MiB", "inf", "nan", "1e9"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InputError, match=r"is not a size; give one as 12GiB"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["4", "4096", "1.5", "0"])
def test_a_number_without_a_unit_is_refused_unless_the_option_names_one(text: str) -> None:
    with pytest.raises(InputError, match=rf"^'{text}' has no unit; give one as 12GiB"):
        parse_bytes(text)
    assert parse_bytes(text, "MiB", least=0) == round(float(text) * MIB)


@pytest.mark.parametrize(("text", "least"), [("0GiB", 1), ("0.4B", 0), ("1023KiB", MIB), ("0MiB", MIB)])
def test_sizes_that_are_too_small(text: str, least: int) -> None:
    with pytest.raises(InputError, match=r"bytes; give (1B|1MiB) or more$"):
        parse_bytes(text, least=least)


@pytest.mark.parametrize(
    ("size", "text"), [(1, "1B"), (1536, "1.5KiB"), (MIB, "1MiB"), (MIB + 1, "1.1MiB"), (12 << 30, "12GiB")]
)
def test_a_size_is_written_as_it_is_read(size: int, text: str) -> None:
    assert bytes_text(size) == text
    assert parse_bytes(text) >= size


def test_an_option_converts_once_and_may_take_zero() -> None:
    type_ = ByteSize(unit="MiB", least=MIB, zero=True)
    assert [type_.convert(value, None, None) for value in ("256", "1GiB", "0", 77)] == [256 * MIB, 1 << 30, 0, 77]
    with pytest.raises(click.BadParameter, match="is 1024 bytes; give 1MiB or more, or 0"):
        type_.convert("1KiB", None, None)


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["build", "bundle", "--target", "l4", "--max-host-mem", "4"], "--max-host-mem"),
        (["build", "bundle", "--target", "l4", "--max-host-mem", "lots"], "--max-host-mem"),
        (["build", "bundle", "--target", "l4", "--max-host-mem", "0GiB"], "--max-host-mem"),
        (["serve", "bundle", "--cache-mb", "-1"], "--cache-mb"),
        (["serve", "bundle", "--cache-mb", "0.001"], "--cache-mb"),
        (["serve", "bundle", "--cache-mb", "lots"], "--cache-mb"),
        (["serve", "bundle", "--max-body-mb", "0"], "--max-body-mb"),
        (["serve", "bundle", "--max-body-mb", "1KiB"], "--max-body-mb"),
    ],
)
def test_every_option_of_bytes_refuses_by_its_name(arguments: list[str], option: str) -> None:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert f"Invalid value for '{option}'" in done.output
    assert "give " in done.output
