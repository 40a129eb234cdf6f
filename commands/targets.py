"""`targets`: list the devices that plans can be built for."""

import click

from internvl_edge.commands.options.shared import JSON
from internvl_edge.commands.output.printing import show, show_json


@click.command()
@JSON
def targets(as_json: bool) -> None:
    """List the devices that plans are built for: memory, 8-bit formats, which TensorRT, and whether it builds here."""
    from internvl_edge.runtime.targets.targets_table import targets_json, targets_text

    show_json(targets_json()) if as_json else show(targets_text())
