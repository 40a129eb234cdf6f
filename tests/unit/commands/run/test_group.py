"""`run`: a file for each of its commands, and the help that names them."""

from pathlib import Path

from internvl_edge.commands.run.group import run
from tests.project import ROOT

OTHERS = {"__init__", "conversation", "group", "ranking"}


def test_every_command_has_a_file_and_is_named_in_the_help() -> None:
    files = {path.stem for path in Path(ROOT / "commands" / "run").glob("*.py")} - OTHERS
    assert set(run.commands) == files
    assert run.help is not None
    assert all(name in run.help for name in run.commands)
