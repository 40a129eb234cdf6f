"""`targets`: the devices that plans can be built for."""

import click

from internvl_edge.commands.options.parameters import JSON
from internvl_edge.commands.output.printing import show, show_json


@click.command()
@JSON
def targets(as_json: bool) -> None:
    """List the devices that plans can be built for: memory, 8-bit formats, which TensorRT, buildable here or not."""
    from internvl_edge.runtime.targets.targets_table import targets_json, targets_text

    show_json(targets_json()) if as_json else show(targets_text())
