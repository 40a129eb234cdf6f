"""A ranking as text and as JSON, and the choice of picture features."""

import click
import numpy as np
import pytest

from internvl_edge.commands.run.ranking import MODE, show_ranking
from tests.unit.commands.conftest import Invoke


@pytest.mark.parametrize(
    ("as_json", "printed"),
    [
        (False, "a.png\n     2.000  y\n    -1.000  x\n"),
        (True, '[\n  {\n    "image": "a.png",\n    "scores": {\n      "y": 2.0,\n      "x": -1.0\n    }\n  }\n]\n'),
    ],
)
def test_the_best_name_comes_first(capfd: pytest.CaptureFixture[str], as_json: bool, printed: str) -> None:
    show_ranking(["a.png"], ["x", "y"], np.array([[-1.0, 2.0]]), as_json)
    assert capfd.readouterr().out == printed


@pytest.mark.parametrize(("given", "code"), [("c", 0), ("g", 0), ("G", 2), ("x", 2)])
def test_modes_are_c_and_g(invoke: Invoke, given: str, code: int) -> None:
    @click.command()
    @MODE
    def command(mode: str | None) -> None:
        click.echo(mode)

    done = invoke(command, "--mode", given)
    assert done.exit_code == code
    assert code or done.stdout == f"{given}\n"
    assert not invoke(command).stdout.strip()
