"""The commands load with every click that is allowed; those before 8.4 have classes without type parameters."""

import subprocess
import sys

CODE = """
import click

def refuse(cls, item):
    raise TypeError(f"type {cls.__name__!r} is not subscriptable")

click.ParamType.__class_getitem__ = classmethod(refuse)
from internvl_edge.cli import main

main(["run", "embed", "--help"])
"""


def test_commands_load_where_types_of_parameters_take_none() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--text-column" in done.stdout
