"""The times of stages of one request, as the table that ``run ... --latency`` prints."""

from collections.abc import Sequence
from dataclasses import dataclass

from internvl_edge.runtime.stages import STAGES, Span, Stages

_NS_PER_MS = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTime:
    """The sum of all spans of one stage of one graph."""

    stage: str
    graph: str
    calls: int
    milliseconds: float
    on_device: bool


def stage_times(spans: Sequence[Span]) -> list[StageTime]:
    """Return the time of each stage and graph, graphs in order of their first span, stages in the order of `STAGES`.

    Overlapping spans of one stage, as of several threads, are added: the sum is time of work, not of waiting.
    """
    graphs = list(dict.fromkeys(span.graph for span in spans))
    groups: dict[tuple[str, str, bool], list[Span]] = {}
    for span in spans:
        groups.setdefault((span.graph, span.stage, span.on_device), []).append(span)
    ordered = sorted(groups.items(), key=lambda item: (graphs.index(item[0][0]), _place(item[0][1])))
    return [
        StageTime(
            stage=stage,
            graph=graph,
            calls=len(group),
            milliseconds=sum(span.end_ns - span.start_ns for span in group) / _NS_PER_MS,
            on_device=on_device,
        )
        for (graph, stage, on_device), group in ordered
    ]


def request_report(stages: Stages, seconds: float) -> str:
    """Return the table of one request that took `seconds` in all, with the time that no stage covers.

    Times of the device's clock are marked: they are part of the host's waiting, unless the host works meanwhile.
    """
    spans = list(stages.spans)
    total_ms = seconds * 1e3
    rows = [("stage", "graph", "calls", "ms", "share")]
    for time in stage_times(spans):
        mark = " *" if time.on_device else ""
        share = f"{time.milliseconds / total_ms:.1%}" if total_ms > 0 else ""
        rows.append((time.stage + mark, time.graph, str(time.calls), f"{time.milliseconds:.3f}", share))
    uncovered = max(total_ms - covered_ms(spans), 0.0)
    rows.append(("(no stage)", "", "", f"{uncovered:.3f}", f"{uncovered / total_ms:.1%}" if total_ms > 0 else ""))
    rows.append(("request", "", "1", f"{total_ms:.3f}", "100.0%"))
    lines = aligned(rows, words=2)
    if any(span.on_device for span in spans):
        lines.append("* on the device's clock")
    return "\n".join(lines)


def covered_ms(spans: Sequence[Span]) -> float:
    """Return the time during which at least one span was open; overlaps count once."""
    covered, end = 0, 0
    for span in sorted(spans, key=lambda span: span.start_ns):
        covered += max(span.end_ns - max(span.start_ns, end), 0)
        end = max(end, span.end_ns)
    return covered / _NS_PER_MS


def _place(stage: str) -> int:
    return STAGES.index(stage) if stage in STAGES else len(STAGES)


def aligned(rows: Sequence[tuple[str, ...]], words: int) -> list[str]:
    """Return the rows as lines: the first `words` columns are aligned to the left, all others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column < words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
