"""Text of an evaluation on questions: a table with one line for each kind."""

from collections.abc import Mapping, Sequence

from internvl_edge.calib.evaluation.questions.report import AnswerEvaluation, AnswerReport, Figures

_COLUMNS: Sequence[tuple[str, str, str]] = (
    ("exact match", "exact_match", ".1f"),
    ("VQA accuracy", "vqa_accuracy", ".1f"),
    ("ANLS", "anls", ".1f"),
    ("log-probability", "log_probability", ".3f"),
    ("a token", "log_probability_per_token", ".3f"),
)
"""Heading, field of `Figures` and format of each column."""
_ALL = "all"


def answers_text(evaluation: AnswerEvaluation) -> str:
    """Return the figures by kind, and with a baseline the differences to it and the share of equal answers."""
    report, baseline = evaluation.report, evaluation.baseline
    blocks = []
    if (found := _rows(report)) is not None:
        title = "percent; natural logarithm of the probability of the expected answer"
        blocks.append([f"{report.questions} questions, {title}", *_table(found, ("questions", *_headings()))])
    if baseline is not None and evaluation.agreement is not None:
        others = _rows(baseline)
        lines = {name or _ALL: [f"{percent:.1f}"] for name, percent in _all_last(evaluation.agreement).items()}
        headings: tuple[str, ...] = ("same answer",)
        if others is not None:
            headings += _headings()
            lines = {name: cells + _differences(report, baseline, name) for name, cells in lines.items()}
        blocks.append(["same answers as the baseline, percent, and difference to it", *_table(lines, headings)])
    unknown = report.questions - (report.overall.questions if report.overall else 0)
    if unknown:
        blocks.append([f"{unknown} questions have no `answer`: they count for the baseline's agreement alone"])
    return "\n\n".join("\n".join(lines) for lines in blocks)


def _headings() -> tuple[str, ...]:
    return tuple(heading for heading, _, _ in _COLUMNS)


def _rows(report: AnswerReport) -> dict[str, list[str]] | None:
    """Return the cells of each kind and of all questions; None where no answer is known."""
    if report.overall is None:
        return None
    figures = {**report.by_kind, _ALL: report.overall}
    return {
        name: [str(each.questions), *(f"{getattr(each, column):{number}}" for _, column, number in _COLUMNS)]
        for name, each in figures.items()
    }


def _differences(report: AnswerReport, baseline: AnswerReport, name: str) -> list[str]:
    found, other = _of(report, name), _of(baseline, name)
    if found is None or other is None:
        return ["-"] * len(_COLUMNS)
    return [f"{getattr(found, column) - getattr(other, column):+{number}}" for _, column, number in _COLUMNS]


def _of(report: AnswerReport, name: str) -> Figures | None:
    return report.overall if name == _ALL else report.by_kind.get(name)


def _all_last(percents: Mapping[str, float]) -> dict[str, float]:
    """Return the shares with that of all questions at the end."""
    return {**{name: percent for name, percent in percents.items() if name}, "": percents[""]}


def _table(rows: Mapping[str, Sequence[str]], headings: Sequence[str]) -> list[str]:
    """Return the lines of a table with right-aligned columns under their headings."""
    cells = [["", *headings], *([name, *row] for name, row in rows.items())]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        f"{row[0]:<{widths[0]}}"
        + "".join(f"  {text:>{width}}" for text, width in zip(row[1:], widths[1:], strict=True))
        for row in cells
    ]
