"""`eval`: measure the accuracy of a bundle on labelled pictures, and its loss against another."""

from pathlib import Path
from typing import Any

import click

from internvl_edge.commands.options.shared import (
    BF16,
    BUNDLE,
    JSON,
    MAX_PIXELS,
    backend,
    sample_count,
    tasks,
)
from internvl_edge.commands.options.value_types import GivenPath, Names
from internvl_edge.commands.output.printing import show, show_json


@click.command("eval")
@BUNDLE
@click.option(
    "--data", type=GivenPath(), required=True, help="Table or archive of pictures with captions to measure on."
)
@sample_count(None, most=click.IntRange(1, 2**31))
@MAX_PIXELS
@click.option("--baseline", type=GivenPath(), help="Bundle to measure as well and to compare with.")
@tasks("retrieval", "zero_shot", "captions")
@click.option(
    "--languages", type=Names(), show_default="all of the data", help="Languages to measure, comma-separated, as en,zh."
)
@backend("onnxruntime")
@BF16
@JSON
def evaluate(bundle: Path, data: Path, baseline: Path | None, as_json: bool, **settings: Any) -> None:
    """Measure BUNDLE on labelled pictures: recall per language, zero-shot accuracy, captions, cosines to a baseline.

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
