"""The commands that measure for 8 bits, and what 8 bits cost: calibrate, eval and compare."""

from pathlib import Path
from typing import Any

import click

from internvl_edge.commands.numbers import PIXELS, SAMPLES, Number
from internvl_edge.commands.parameters import (
    ACCEPT_CONFIG,
    BF16,
    BUNDLE,
    JSON,
    MAX_PIXELS,
    STATE_DICT,
    Given,
    GivenPath,
    Names,
)
from internvl_edge.commands.printing import show, show_json


@click.command()
@click.argument("checkpoint", type=Given())
@click.option("--data", type=Given(), help="Pictures (and captions): a folder, table or archive, or the word random.")
@MAX_PIXELS
@click.option("-o", "--output", type=GivenPath(), required=True, help="Folder of ranges to write.")
@click.option("--samples", type=SAMPLES, default=128, show_default=True, help="How many pictures of the data to take.")
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
    internvl-edge calibrate CHECKPOINT --data coco.jsonl -o ranges --samples 512
    internvl-edge calibrate CHECKPOINT --merge ranges-a --merge ranges-b -o ranges
    """
    from internvl_edge.export.calibrate import CalibrateOptions
    from internvl_edge.export.calibrate import calibrate as measure
    from internvl_edge.export.report import ranges_text
    from internvl_edge.progress import shown_progress

    with shown_progress() as progress:
        report = measure(CalibrateOptions(**options), progress)
    show(ranges_text(report))


@click.command("eval")
@BUNDLE
@click.option("--data", type=GivenPath(), required=True, help="Table or archive of pictures with captions.")
@MAX_PIXELS
@click.option("--baseline", type=GivenPath(), help="Bundle to compare with.")
@click.option("--limit", type=click.IntRange(1, 2**31), help="Pictures to take, evenly spread. Default: all.")
@click.option("--languages", type=Names(), help="Languages to measure, as en,zh. Default: all of the data.")
@click.option("--tasks", type=Names(), help="Of retrieval,zero_shot,captions. Default: all.")
@click.option("--backend", default="onnxruntime", show_default=True, help="Library that runs the graphs, or auto.")
@BF16
@JSON
def evaluate(bundle: Path, data: Path, baseline: Path | None, as_json: bool, **settings: Any) -> None:
    """Measure BUNDLE on labelled pictures: recall per language, zero-shot accuracy, captions, distance to a baseline.

    \b
    internvl-edge eval bundle --data examples/emoji/data/test.jsonl
    internvl-edge eval bundle-int8 --data examples/emoji/data/test.jsonl --baseline bundle --limit 400
    """
    from internvl_edge.calib.evaluation import EvalOptions, evaluate_bundle, evaluation_text
    from internvl_edge.progress import shown_progress

    options = EvalOptions(**{name: value for name, value in settings.items() if value is not None})
    with shown_progress() as progress:
        found = evaluate_bundle(bundle, data, options, baseline, progress)
    text = evaluation_text(found.report, found.baseline, found.cosines)
    show_json(found.to_json()) if as_json else show(text)


@click.command()
@BUNDLE
@click.argument("reference", type=GivenPath())
@click.option("--data", type=GivenPath(), required=True, help="A folder, table or archive of pictures.")
@MAX_PIXELS
@click.option("--samples", type=SAMPLES, default=4, show_default=True, help="Pictures to take, evenly spread.")
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
    from internvl_edge.export.compare import CompareOptions
    from internvl_edge.export.compare import compare as against
    from internvl_edge.export.compare_report import comparison_json, comparison_text
    from internvl_edge.progress import shown_progress

    with shown_progress() as progress:
        found = against(bundle, reference, CompareOptions(**settings), progress)
    show_json(comparison_json(found)) if as_json else show(comparison_text(found))
