"""Answers of the chat example through the exported graphs, against the reference's recorded ones, by type and kind."""

import json
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

from internvl_edge.calib.evaluation.questions.report import AnswerReport
from internvl_edge.calib.evaluation.questions.run import AnswerOptions, evaluate_answers
from internvl_edge.export.compile import export_bundle
from internvl_edge.export.run.options import ExportOptions

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "chat"
HEAD = """\
| type | answers as the reference's, % | exact match, % | largest difference of a kind, questions | \
log-probability | largest difference of one |
| --- | ---: | ---: | ---: | ---: | ---: |"""


@click.command()
@click.option("--dtype", "dtypes", multiple=True, default=("fp32", "fp16", "bf16"), show_default=True)
def main(dtypes: tuple[str, ...]) -> None:
    """Export examples/chat in each type, answer all of its questions, and print a table."""
    expected = json.loads((EXAMPLE / "expected.json").read_text(encoding="utf-8"))
    click.echo(HEAD)
    overall = expected["overall"]
    click.echo(f"| reference, fp32 | | {overall['exact']:.2f} | | {overall['logprob']:.4f} | |")
    for dtype in dtypes:
        with tempfile.TemporaryDirectory() as folder:
            bundle = Path(folder) / "bundle"
            export_bundle(ExportOptions(checkpoint=str(EXAMPLE / "checkpoint"), output=bundle, dtype=dtype))
            found = evaluate_answers(bundle, EXAMPLE / "data" / "test.jsonl", AnswerOptions())
        click.echo(f"| {dtype} | {' | '.join(row(found.report, expected))} |")


def row(report: AnswerReport, expected: dict[str, Any]) -> list[str]:
    """Return the cells of one type."""
    recorded = {each["id"]: each for each in expected["answers"]}
    same = [each["answer"] == recorded[each["id"]]["got"] for each in report.answers]
    apart = [abs(each["log_probability"] - recorded[each["id"]]["logprob"]) for each in report.answers]
    kinds = [
        abs(figures.exact_match - expected["by_kind"][kind]["exact"]) * figures.questions / 100
        for kind, figures in report.by_kind.items()
    ]
    overall = report.overall
    assert overall is not None
    return [
        f"{100 * np.mean(same):.2f}",
        f"{overall.exact_match:.2f}",
        f"{round(max(kinds))}",
        f"{overall.log_probability:.4f}",
        f"{max(apart):.4f}",
    ]


if __name__ == "__main__":
    main()
