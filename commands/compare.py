"""`compare`: find the block after which a bundle diverges from its reference."""

from pathlib import Path
from typing import Any

import click

from internvl_edge.commands.options.numbers import Number
from internvl_edge.commands.options.shared import (
    ACCEPT_CONFIG,
    BUNDLE,
    GRAPHS,
    JSON,
    MAX_PIXELS,
    STATE_DICT,
    sample_count,
)
from internvl_edge.commands.options.value_types import GivenPath
from internvl_edge.commands.output.printing import show, show_json


@click.command()
@BUNDLE
@click.argument("reference", type=GivenPath())
@click.option(
    "--data", type=GivenPath(), required=True, help="Folder, table or archive of pictures to run both sides on."
)
@sample_count(4)
@MAX_PIXELS
@GRAPHS
@click.option(
    "--threshold-db",
    type=Number(-1000, 1000),
    default=20.0,
    show_default=True,
    help="SQNR in dB below which a block counts as diverged.",
)
@STATE_DICT
@ACCEPT_CONFIG
@JSON
def compare(bundle: Path, reference: Path, as_json: bool, **settings: Any) -> None:
    """Show after which block BUNDLE diverges from REFERENCE, another bundle or the checkpoint.

    Cosine, SQNR and largest error are printed for each block. Each graph gets the reference's inputs, so that it is
    compared alone. The last line names the first block that diverges, and the option that keeps it in high precision.
    A checkpoint runs in torch in fp32, with one block's weights in memory at a time.

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
