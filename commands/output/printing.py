"""Printing to stdout: text for people, JSON for programs."""

import click

from internvl_edge.runtime.errors import EdgeError
from internvl_edge.runtime.outputs.stdout import drop_stdout
from internvl_edge.runtime.outputs.strict_json import json_text


def show(text: str | bytes, *, newline: bool = True, to_stderr: bool = False) -> None:
    """Print `text`, or its bytes; `to_stderr` is for commands whose file goes to stdout.

    Raises:
        EdgeError: stdout cannot be written, as on a full disk.
        BrokenPipeError: the reader of stdout has ended.
    """
    try:
        click.echo(text, nl=newline, err=to_stderr)
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_stdout()
        finding = error.strerror or error
        raise EdgeError(f"stdout: cannot be written ({finding}); make room, or lead it elsewhere") from error


def show_json(content: object) -> None:
    """Print `content` as JSON in UTF-8, whatever the encoding of the terminal is.

    Raises:
        EdgeError: as `show`.
    """
    show(json_text(content).encode())
