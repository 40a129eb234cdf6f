"""`doctor`: what is installed, what GPU is here, and what keeps a bundle from becoming plans."""

from pathlib import Path

import click

from internvl_edge.commands.options.parameters import JSON, GivenPath
from internvl_edge.commands.output.printing import show, show_json


@click.command()
@click.argument("bundle", type=GivenPath(), required=False)
@click.option("--target", help="Device to check BUNDLE for, as agx-orin-64gb or l4.")
@JSON
def doctor(bundle: Path | None, target: str | None, as_json: bool) -> None:
    """Show what is installed and what GPU is here; for BUNDLE, what plans will take and what blocks them.

    \b
    internvl-edge doctor
    internvl-edge doctor bundle --target orin-nano-8gb
    """
    from internvl_edge.runtime.inspect.doctor import diagnose, diagnosis_text

    found = diagnose(bundle, target)
    show_json(found.to_json()) if as_json else show(diagnosis_text(found))
