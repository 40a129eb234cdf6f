"""`calibrate`: the ranges of a checkpoint, measured for `export --ranges`."""

from typing import Any

import click

from internvl_edge.commands.options.numbers import PIXELS, SAMPLES
from internvl_edge.commands.options.parameters import ACCEPT_CONFIG, MAX_PIXELS, STATE_DICT, Given, GivenPath, Names
from internvl_edge.commands.output.printing import show


@click.command()
@click.argument("checkpoint", type=Given())
@click.option("--data", type=Given(), help="Pictures (and captions): a folder, table or archive, or the word random.")
@MAX_PIXELS
@click.option("-o", "--output", type=GivenPath(), required=True, help="Folder of ranges to write.")
@click.option(
    "--sample-count",
    "samples",
    type=SAMPLES,
    default=128,
    show_default=True,
    help="How many pictures of the data to take.",
)
@click.option(
    "--method",
    "--calibration_method",
    "method",
    default="auto",
    show_default=True,
    help="Rule for clips that export follows: auto, max, percentile, entropy or mse.",
)
@click.option("--graphs", type=Names(), help="Graphs to measure; default: all that the checkpoint has weights for.")
@click.option("--image-size", type=PIXELS, help="Picture side in pixels. Default: the checkpoint's.")
@click.option("--compute", default="auto", show_default=True, help="Matrix products in auto, fp32 or bf16.")
@click.option("--merge", type=GivenPath(), multiple=True, help="Ranges of one part of the data; repeat for each.")
@click.option("--revision", help="Revision of a Hub id.")
@ACCEPT_CONFIG
@STATE_DICT
def calibrate(**options: Any) -> None:
    """Measure the ranges of CHECKPOINT on pictures and captions, block by block, for `export --ranges`.

    One block's weights are in memory at a time; a killed run goes on where it was. Shards of a large data set are
    measured apart and merged.

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
