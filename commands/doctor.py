"""`doctor`: show what is installed, which GPU is here, and what prevents the plans of a bundle from being built."""

from pathlib import Path

import click

from internvl_edge.commands.options.shared import JSON, target
from internvl_edge.commands.options.value_types import GivenPath
from internvl_edge.commands.output.printing import show, show_json


@click.command()
@click.argument("bundle", type=GivenPath(), required=False)
@target("Device to check BUNDLE for")
@JSON
def doctor(bundle: Path | None, target: str | None, as_json: bool) -> None:
    """Show what is installed and which GPU is here; for BUNDLE, what its plans need and what prevents building them.

    \b
    internvl-edge doctor
    internvl-edge doctor bundle --target orin-nano-8gb
    """
    from internvl_edge.runtime.inspect.doctor import diagnose, diagnosis_text

    found = diagnose(bundle, target)
    show_json(found.to_json()) if as_json else show(diagnosis_text(found))
