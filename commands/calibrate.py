"""`calibrate`: measure the ranges of a checkpoint for `export --ranges`."""

from typing import Any

import click

from internvl_edge.commands.options.shared import (
    ACCEPT_CONFIG,
    GRAPHS,
    IMAGE_SIZE,
    MAX_PIXELS,
    REVISION,
    STATE_DICT,
    clip_method,
    sample_count,
)
from internvl_edge.commands.options.value_types import Given, GivenPath
from internvl_edge.commands.output.printing import show


@click.command()
@click.argument("checkpoint", type=Given())
@click.option("-o", "--output", type=GivenPath(), required=True, help="Folder of ranges to write.")
@click.option(
    "--data",
    type=Given(),
    help="Folder, table or archive of pictures (and captions) to measure on, or the word random.",
)
@sample_count(128)
@MAX_PIXELS
@GRAPHS
@IMAGE_SIZE
@clip_method(default="auto")
@click.option(
    "--compute",
    default="auto",
    show_default=True,
    help="Type of matrix products: fp32, bf16, or auto, which is bf16 where the CPU multiplies it in hardware.",
)
@click.option(
    "--merge",
    type=GivenPath(),
    multiple=True,
    help="Folder of ranges that were measured on one part of the data, to merge instead of measuring; repeat for each.",
)
@REVISION
@STATE_DICT
@ACCEPT_CONFIG
def calibrate(**options: Any) -> None:
    """Measure the ranges of CHECKPOINT on pictures and captions, block by block, for `export --ranges`.

    One block's weights are in memory at a time. A run that was killed continues where it was when the same command is
    given again. Parts of a large data set can be measured apart and merged with --merge.

    \b
    internvl-edge calibrate CHECKPOINT --data pictures/ -o ranges
    internvl-edge calibrate CHECKPOINT --data coco.jsonl -o ranges --sample-count 512
    internvl-edge calibrate CHECKPOINT --merge ranges-a --merge ranges-b -o ranges
    """
    from internvl_edge.commands.output.progress import shown_progress
    from internvl_edge.export.calibrate import CalibrateOptions
    from internvl_edge.export.calibrate import calibrate as measure
    from internvl_edge.export.export_report import ranges_text

    with shown_progress() as progress:
        report = measure(CalibrateOptions(**options), progress)
    show(ranges_text(report))
