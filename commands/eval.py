"""`eval`: what a bundle is worth on labelled pictures, and what it lost against another."""

from pathlib import Path
from typing import Any

import click

from internvl_edge.commands.options.parameters import BF16, BUNDLE, JSON, MAX_PIXELS, GivenPath, Names
from internvl_edge.commands.output.printing import show, show_json


@click.command("eval")
@BUNDLE
@click.option("--data", type=GivenPath(), required=True, help="Table or archive of pictures with captions.")
@MAX_PIXELS
@click.option("--baseline", type=GivenPath(), help="Bundle to compare with.")
@click.option("--sample-count", type=click.IntRange(1, 2**31), help="Pictures to take, evenly spread. Default: all.")
@click.option("--languages", type=Names(), help="Languages to measure, as en,zh. Default: all of the data.")
@click.option("--tasks", type=Names(), help="Of retrieval,zero_shot,captions. Default: all.")
@click.option("--backend", default="onnxruntime", show_default=True, help="Library that runs the graphs, or auto.")
@BF16
@JSON
def evaluate(bundle: Path, data: Path, baseline: Path | None, as_json: bool, **settings: Any) -> None:
    """Measure BUNDLE on labelled pictures: recall per language, zero-shot accuracy, captions, distance to a baseline.

    \b
    internvl-edge eval bundle --data examples/emoji/data/test.jsonl
    internvl-edge eval bundle-int8 --data examples/emoji/data/test.jsonl --baseline bundle --sample-count 400
    """
    from internvl_edge.calib.evaluation import EvalOptions, evaluate_bundle, evaluation_text
    from internvl_edge.commands.output.progress import shown_progress

    options = EvalOptions(**{name: value for name, value in settings.items() if value is not None})
    with shown_progress() as progress:
        found = evaluate_bundle(bundle, data, options, baseline, progress)
    text = evaluation_text(found.report, found.baseline, found.cosines)
    show_json(found.to_json()) if as_json else show(text)
