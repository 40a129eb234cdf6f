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
    max_new_tokens,
    sample_count,
    tasks,
)
from internvl_edge.commands.options.value_types import GivenPath, Names
from internvl_edge.commands.output.printing import show, show_json


@click.command("eval")
@BUNDLE
@click.option(
    "--data", type=GivenPath(), required=True, help="Pictures with captions, or a table of questions, to measure on."
)
@sample_count(None, most=click.IntRange(1, 2**31))
@MAX_PIXELS
@click.option("--baseline", type=GivenPath(), help="Bundle to measure as well and to compare with.")
@tasks("retrieval", "zero_shot", "captions")
@click.option(
    "--languages", type=Names(), show_default="all of the data", help="Languages to measure, comma-separated, as en,zh."
)
@max_new_tokens(32)
@backend("onnxruntime")
@BF16
@JSON
def evaluate(bundle: Path, data: Path, baseline: Path | None, as_json: bool, **settings: Any) -> None:
    """Measure BUNDLE: recall, zero-shot accuracy and captions on pictures, or the answers of a chat model to questions.

    \b
    internvl-edge eval bundle --data examples/emoji/data/test.jsonl
    internvl-edge eval bundle-int8 --data examples/emoji/data/test.jsonl --baseline bundle --sample-count 400
    internvl-edge eval chat-bundle --data examples/chat/data/test.jsonl
    """
    from internvl_edge.commands.output.progress import shown_progress
    from internvl_edge.runtime.inputs.questions import holds_questions

    given = {name: value for name, value in settings.items() if value is not None}
    if holds_questions(data):
        _on_questions(bundle, data, baseline, as_json, given)
        return
    from internvl_edge.calib.evaluation import EvalOptions, evaluate_bundle, evaluation_text

    options = EvalOptions(**given)
    with shown_progress() as progress:
        found = evaluate_bundle(bundle, data, options, baseline, progress)
    text = evaluation_text(found.report, found.baseline, found.cosines)
    show_json(found.to_json()) if as_json else show(text)


def _on_questions(bundle: Path, data: Path, baseline: Path | None, as_json: bool, settings: dict[str, Any]) -> None:
    from internvl_edge.calib.evaluation.questions.run import AnswerOptions, evaluate_answers
    from internvl_edge.calib.evaluation.questions.text import answers_text
    from internvl_edge.commands.output.progress import shown_progress

    if unfit := [f"--{name}" for name in ("tasks", "languages") if name in settings]:
        raise click.UsageError(f"{' and '.join(unfit)}: of pictures with captions, but --data holds questions")
    options = AnswerOptions(**settings)
    with shown_progress() as progress:
        found = evaluate_answers(bundle, data, options, baseline, progress)
    show_json(found.to_json()) if as_json else show(answers_text(found))
