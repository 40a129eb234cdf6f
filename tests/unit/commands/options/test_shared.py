"""Shared options reach a command under the name that it asks for, and print their defaults in one form."""

from collections.abc import Iterator

import click
import pytest
from PIL import Image

from internvl_edge.commands.options.shared import MAX_PIXELS, Option, clip_method, max_pixels, sample_count, threads
from tests.unit.commands.conftest import Invoke


@pytest.fixture
def pixels() -> Iterator[None]:
    before = Image.MAX_IMAGE_PIXELS
    yield
    Image.MAX_IMAGE_PIXELS = before


def command_of(*options: Option) -> click.Command:
    def values(**found: object) -> None:
        click.echo(sorted(found.items()))

    for option in options:
        values = option(values)
    return click.command()(values)


def test_without_a_default_all_pictures_are_taken(invoke: Invoke) -> None:
    command = command_of(sample_count(None))
    assert invoke(command).stdout == "[('sample_count', None)]\n"
    assert "from --data, evenly spaced over it. [default: (all);" in " ".join(invoke(command, "--help").stdout.split())


def test_a_default_is_a_number(invoke: Invoke) -> None:
    command = command_of(sample_count(4, source="--samples", chosen="the first ones"))
    assert invoke(command).stdout == "[('sample_count', 4)]\n"
    assert invoke(command, "--sample-count 65536").stdout == "[('sample_count', 65536)]\n"
    assert "from --samples, the first ones. [" in " ".join(invoke(command, "--help").stdout.split())


def test_the_method_of_optimum_is_ours(invoke: Invoke) -> None:
    command = command_of(clip_method(None))
    assert invoke(command).stdout == "[('method', None)]\n"
    assert invoke(command, "--calibration_method mse").stdout == "[('method', 'mse')]\n"
    assert invoke(command_of(clip_method("auto"))).stdout == "[('method', 'auto')]\n"


@pytest.mark.usefixtures("pixels")
def test_the_limit_of_pixels_is_set_for_the_process_or_passed_on(invoke: Invoke) -> None:
    assert invoke(command_of(MAX_PIXELS, threads()), "--max-pixels 5").stdout == "[('threads', None)]\n"
    assert Image.MAX_IMAGE_PIXELS == 5
    assert invoke(command_of(max_pixels()), "--max-pixels 7").stdout == "[('max_pixels', 7)]\n"
    assert Image.MAX_IMAGE_PIXELS == 5
