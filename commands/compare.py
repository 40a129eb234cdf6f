"""`compare`: after which block a bundle leaves its reference."""

from pathlib import Path
from typing import Any

import click

from internvl_edge.commands.options.numbers import SAMPLES, Number
from internvl_edge.commands.options.parameters import (
    ACCEPT_CONFIG,
    BUNDLE,
    JSON,
    MAX_PIXELS,
    STATE_DICT,
    GivenPath,
    Names,
)
from internvl_edge.commands.output.printing import show, show_json


@click.command()
@BUNDLE
@click.argument("reference", type=GivenPath())
@click.option("--data", type=GivenPath(), required=True, help="A folder, table or archive of pictures.")
@MAX_PIXELS
@click.option(
    "--sample-count", "samples", type=SAMPLES, default=4, show_default=True, help="Pictures to take, evenly spread."
)
@click.option("--graphs", type=Names(), help="Graphs to compare; default: all of BUNDLE.")
@click.option(
    "--threshold-db",
    type=Number(-1000, 1000),
    default=20.0,
    show_default=True,
    help="SQNR below which a block diverges.",
)
@ACCEPT_CONFIG
@STATE_DICT
@JSON
def compare(bundle: Path, reference: Path, as_json: bool, **settings: Any) -> None:
    """Show after which block BUNDLE leaves REFERENCE, another bundle or the checkpoint: cosine, SQNR, largest error.

    Each graph gets the reference's inputs, so each is judged alone; the last line says where the first divergence is
    and what keeps it high. The checkpoint runs in torch, fp32, one block's weights in memory at a time.

    \b
    internvl-edge compare bundle-int8 bundle --data pictures/
    internvl-edge compare bundle-int8 examples/emoji/checkpoint --data examples/emoji/data/test.jsonl --graphs vision
    """
    from internvl_edge.commands.output.progress import shown_progress
    from internvl_edge.export.check.compare import CompareOptions
    from internvl_edge.export.check.compare import compare as against
    from internvl_edge.export.check.compare_report import comparison_json, comparison_text

    with shown_progress() as progress:
        found = against(bundle, reference, CompareOptions(**settings), progress)
    show_json(comparison_json(found)) if as_json else show(comparison_text(found))
