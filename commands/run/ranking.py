"""Options and output of the `run` commands that rank texts or classes for pictures."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from internvl_edge.commands.output.printing import show, show_json

if TYPE_CHECKING:
    import numpy as np

MODE = click.option(
    "--mode",
    type=click.Choice(["c", "g"]),
    show_default="g where BUNDLE has the query graph, otherwise c",
    help="Picture features of InternVL-C or of InternVL-G.",
)
TEXTS = click.option("-t", "--text", "texts", multiple=True, required=True, help="Text to rank; repeat for each text.")


def show_ranking(images: Sequence[object], names: Sequence[str], scores: "np.ndarray", as_json: bool) -> None:
    """Print the scores ``[images, names]``: for each picture its names, the highest score first."""
    from internvl_edge.runtime.outputs.results import ranking_rows, ranking_text

    if as_json:
        show_json(ranking_rows(images, names, scores))
    else:
        show(ranking_text(images, names, scores))
