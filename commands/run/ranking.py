"""What `run` commands that rank share: the choice of picture features, and how a ranking is printed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from internvl_edge.commands.output.printing import show, show_json

if TYPE_CHECKING:
    import numpy as np

MODE = click.option(
    "--mode",
    type=click.Choice(["c", "g"]),
    help="InternVL-C or InternVL-G picture features.  [default: g where BUNDLE has the query graph, otherwise c]",
)


def show_ranking(images: Sequence[object], names: Sequence[str], scores: "np.ndarray", as_json: bool) -> None:
    """Print the score of every one of `names` for every one of `images`, the best first."""
    from internvl_edge.runtime.outputs.results import ranking_rows, ranking_text

    if as_json:
        show_json(ranking_rows(images, names, scores))
    else:
        show(ranking_text(images, names, scores))
