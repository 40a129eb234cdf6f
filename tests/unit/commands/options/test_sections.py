"""Options under headings in --help: each once, in the order of the headings, and none is lost."""

import click
import pytest
from click.testing import CliRunner

from internvl_edge.commands.bench import bench
from internvl_edge.commands.export import export
from internvl_edge.commands.options.sections import SectionedCommand
from internvl_edge.commands.serve import serve
from tests.unit.commands.conftest import Invoke

SECTIONED = {"export": export, "bench": bench, "serve": serve}


def test_options_stand_under_their_headings(invoke: Invoke) -> None:
    @click.command(cls=SectionedCommand, sections={"Second": ("--b",), "First": ("--size", "--a")})
    @click.argument("place")
    @click.option("--a", help="Aa.")
    @click.option("--b", help="Bb.")
    @click.option("-s", "--size", help="Ss.")
    @click.option("--left", help="Ll.")
    def command(**values: str) -> None:
        """Do nothing."""

    lines = [line.split()[0] for line in invoke(command, "--help").stdout.splitlines() if line]
    assert lines == ["Usage:", "Do", "Second:", "--b", "First:", "-s,", "--a", "Other", "--left", "--help"]


@pytest.mark.parametrize("name", SECTIONED)
def test_every_option_has_a_section(name: str) -> None:
    command = SECTIONED[name]
    assert isinstance(command, SectionedCommand)
    chosen = [option for names in command.sections.values() for option in names]
    known = {option for each in command.params if isinstance(each, click.Option) for option in each.opts[:2]}
    assert len(chosen) == len(set(chosen))
    assert set(chosen) <= known
    rest = CliRunner().invoke(command, ["--help"]).stdout.partition("Other options:")[2]
    assert "--help" in rest
    assert rest.count("--") == 1, "only --help stands under no heading"
