"""Commands that join requests have the options of one table, with the defaults of the engine."""

import click
import pytest

from internvl_edge.commands.options.batching import DEADLINE, MAX_BATCH, MAX_DELAY_MS
from internvl_edge.commands.package import ray
from internvl_edge.commands.serve import serve
from internvl_edge.runtime.serve.options import ServeOptions
from tests.unit.commands.conftest import Invoke


def test_each_adds_the_option_of_one_field(invoke: Invoke) -> None:
    @click.command()
    @MAX_BATCH
    @MAX_DELAY_MS
    @DEADLINE
    def command(**fields: float) -> None:
        click.echo(sorted(fields.items()))

    default = ServeOptions()
    fields = ("deadline_ms", "max_batch", "max_delay_ms")
    assert invoke(command).stdout == f"{[(name, getattr(default, name)) for name in fields]}\n"


@pytest.mark.parametrize("command", [serve, ray], ids=["serve", "package ray"])
def test_both_commands_take_them(command: click.Command) -> None:
    names = {parameter.name for parameter in command.params}
    assert names >= {"max_batch", "max_delay_ms", "deadline_ms"}
