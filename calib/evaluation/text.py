"""Text of an evaluation: tables with one column for each language."""

from collections.abc import Mapping

from internvl_edge.calib.evaluation.eval_report import Cosines, EvalReport, mean


def evaluation_text(report: EvalReport, baseline: EvalReport | None = None, cosines: Cosines | None = None) -> str:
    """Return the figures as tables with a column for each language, and the differences to a baseline in points."""
    found = _figures(report)
    blocks = [[f"{report.pictures} pictures, percent", *_table(found, ".1f")]] if found else []
    if baseline is not None and (differences := _differences(found, _figures(baseline))):
        blocks.append(["difference to the baseline, points", *_table(differences, "+.1f")])
    blocks.append(_mean_lines(report, baseline))
    if cosines:
        lines = [f"{name:<22}{values['mean']:>12.7f}{values['min']:>12.7f}" for name, values in cosines.items()]
        blocks.append([f"{'cosine to the baseline':<22}{'mean':>12}{'min':>12}", *lines])
    blocks.append([f"skipped {what}: {reason}" for what, reason in report.skipped])
    if baseline is not None:
        skipped = [pair for pair in baseline.skipped if pair not in report.skipped]
        blocks.append([f"skipped {what} of the baseline: {reason}" for what, reason in skipped])
    return "\n\n".join("\n".join(lines) for lines in blocks if lines)


def _figures(report: EvalReport) -> dict[str, dict[str, float]]:
    """Return all figures as rows: name -> language -> percent."""
    rows: dict[str, dict[str, float]] = {}
    for mode, languages in report.retrieval.items():
        for direction in ("image_to_text", "text_to_image"):
            for language, directions in languages.items():
                for k, percent in directions[direction].items():
                    rows.setdefault(f"{mode.upper()} {direction.replace('_', ' ')} {k}", {})[language] = percent
    rows |= {f"{mode.upper()} zero-shot accuracy": dict(values) for mode, values in report.zero_shot.items()}
    return rows | ({"caption exact match": dict(report.captions)} if report.captions else {})


def _differences(
    found: Mapping[str, Mapping[str, float]], other: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """Return `found` minus `other` where both have a figure."""
    rows = {
        name: {language: value - other[name][language] for language, value in row.items() if language in other[name]}
        for name, row in found.items()
        if name in other
    }
    return {name: row for name, row in rows.items() if row}


def _table(rows: Mapping[str, Mapping[str, float]], number: str) -> list[str]:
    """Return the lines of a table with a column for each language and one for their mean."""
    languages = list(dict.fromkeys(language for row in rows.values() for language in row))
    cells = [["", *(language or "-" for language in languages), "mean"]]
    for name, row in rows.items():
        values = [row.get(language) for language in languages]
        cells.append(
            [name, *("-" if value is None else f"{value:{number}}" for value in [*values, mean(row.values())])]
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        f"{row[0]:<{widths[0]}}"
        + "".join(f"  {text:>{width}}" for text, width in zip(row[1:], widths[1:], strict=True))
        for row in cells
    ]


def _mean_lines(report: EvalReport, baseline: EvalReport | None) -> list[str]:
    """Return a line for each mean, with the difference to the baseline if both are means of the same figures."""
    lines = []
    means = {
        "R@1": "mean_recall_at_1",
        "zero-shot accuracy": "mean_zero_shot",
        "caption exact match": "mean_exact_match",
    }
    comparable = baseline is not None and _keys(report) == _keys(baseline)
    for name, attribute in means.items():
        value = getattr(report, attribute)
        if value is None:
            continue
        line = f"mean {name} {value:.2f}"
        if comparable:
            other = getattr(baseline, attribute)
            line += f", baseline {other:.2f}, difference {value - other:+.2f}"
        lines.append(line)
    return lines


def _keys(report: EvalReport) -> dict[str, list[str]]:
    return {name: sorted(row) for name, row in _figures(report).items()}
