"""The report of a run of `bench`, as text for people and as JSON for programs and for a later ``--baseline``."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.latency.measure.percentiles import CONFIDENCE, Distribution, Percentile
from internvl_edge.runtime.latency.measure.stage_times import aligned
from internvl_edge.runtime.latency.measure.steady_state import RULE
from internvl_edge.runtime.latency.measure.summary import DeviceSummary, Summary
from internvl_edge.runtime.latency.report.comparison import Comparison, compare
from internvl_edge.runtime.latency.report.trtexec import distribution_text, summary_lines
from internvl_edge.runtime.outputs.strict_json import json_text

SCHEMA = 1
"""Version of the JSON report."""
_BASELINE_REMEDY = "give a file of bench --json"

Key = tuple[str, int, int]
"""Name, batch and streams of a case; cases of two runs with equal keys are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The times and settings of an earlier report."""

    times_ms: Mapping[Key, Sequence[float]]
    settings: Mapping[Key, Mapping[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The results of one run of `bench`."""

    bundle: str
    precision: str
    host: Mapping[str, str]
    cases: tuple[Summary, ...] = ()
    stopped: bool = False
    """Whether Ctrl-C ended the run, so that cases are missing and the last one may be incomplete."""
    baseline: Baseline | None = None

    def with_case(self, case: Summary) -> "Report":
        """Return the report with a further case."""
        return replace(self, cases=(*self.cases, case))

    def ended(self, *, stopped: bool) -> "Report":
        """Return the finished report."""
        return replace(self, stopped=stopped)

    def slower(self) -> list[str]:
        """Return the titles of the cases that are slower than the baseline."""
        comparisons = [(case.title, self.comparison_of(case)) for case in self.cases]
        return [title for title, found in comparisons if found is not None and found.answer == "slower"]

    def comparison_of(self, case: Summary) -> Comparison | None:
        """Return the comparison of a case with the baseline; None if the baseline lacks the case."""
        if self.baseline is None or key_of(case) not in self.baseline.times_ms:
            return None
        return compare(case.host_ms, self.baseline.times_ms[key_of(case)])

    def changed_settings(self, case: Summary) -> list[str]:
        """Return the settings that differ from the baseline's, as ``threads: 4 -> 2``."""
        before = self.baseline.settings.get(key_of(case), {}) if self.baseline else {}
        now = self.settings_of(case)
        return [
            f"{name}: {before.get(name, 'unset')} -> {now.get(name, 'unset')}"
            for name in dict.fromkeys([*before, *now])
            if before and before.get(name) != now.get(name)
        ]

    def settings_of(self, case: Summary) -> dict[str, str]:
        """Return all settings without which the case's times cannot be compared."""
        return {**case.measured.settings, "precision": self.precision, **self.host}


def key_of(case: Summary) -> Key:
    """Return the key of a case."""
    return case.measured.name, case.measured.batch, case.measured.streams


def case_text(report: Report, case: Summary) -> str:
    """Return the text of one case: settings, trtexec's lines, percentiles, stages, notes, comparison."""
    return "\n".join(_case_lines(report, case))


def _case_lines(report: Report, case: Summary) -> Iterator[str]:
    measured, warm_up = case.measured, case.measured.warm_up
    yield f"--- {case.title}: {measured.shape} ---"
    yield "Settings: " + ", ".join(f"{name} {value}" for name, value in report.settings_of(case).items())
    yield f"Cold: open {measured.open_ms:.1f} ms, first call {measured.first_ms:.2f} ms"
    state = "steady" if warm_up.steady else "not steady"
    yield f"Warm-up: {warm_up.calls} calls in {warm_up.seconds:.2f} s, {state} ({RULE})"
    yield ""
    yield from summary_lines(case)
    yield ""
    yield f"Host Latency: {distribution_text(case.host)}"
    yield f"Rate: {case.rows_per_s:.1f} {measured.rows}/s over {case.host.count} calls"
    yield f"Host percentiles, {CONFIDENCE:.0%} intervals (order statistics):"
    yield from aligned([("", "ms", "from", "to"), *(percentile_row(item) for item in case.host.percentiles)], words=1)
    if case.stages:
        yield "Stages, per call:"
        yield from aligned([STAGE_HEAD, *stage_rows(case)], words=2)
    if case.board is not None:
        yield device_text(case.board)
    yield from (f"Note: {note}" for note in case.notes)
    if (found := report.comparison_of(case)) is not None:
        yield f"Against the baseline: {comparison_text(found)}"
        yield from (f"Changed: {change}" for change in report.changed_settings(case))
    elif report.baseline is not None:
        yield "Against the baseline: it has no such case"


STAGE_HEAD = ("stage", "graph", "calls", "mean ms", "median ms", "share")


def percentile_row(item: Percentile) -> tuple[str, str, str, str]:
    """Return a percentile and its interval as table cells; a missing bound is a dash."""
    low, high = ("-" if bound is None else f"{bound:.3f}" for bound in (item.low_ms, item.high_ms))
    return f"p{item.percent:g}", f"{item.value_ms:.3f}", low, high


def stage_rows(case: Summary) -> list[tuple[str, ...]]:
    """Return the stages of a case as table rows under `STAGE_HEAD`; a star marks times of the device's clock."""
    return [
        (
            stage.stage + (" *" if stage.on_device else ""),
            stage.graph,
            f"{stage.per_call:g}",
            f"{stage.mean_ms:.3f}",
            f"{stage.median_ms:.3f}",
            f"{stage.share:.1%}",
        )
        for stage in case.stages
    ]


def device_text(board: DeviceSummary) -> str:
    """Return power, energy, temperature and clock as one line."""
    parts = [f"Board ({board.source}, {board.readings} readings):"]
    if board.power_w is not None and board.joule_per_row is not None:
        parts.append(f"{board.power_w:.2f} W, {board.joule_per_row * 1e3:.2f} mJ a row,")
    if board.temperature_c is not None:
        parts.append(f"up to {board.temperature_c:.0f} °C,")
    if board.clock_mhz is not None:
        parts.append(f"clock {board.clock_mhz[0]:.0f} to {board.clock_mhz[1]:.0f} MHz,")
    return " ".join(parts).rstrip(",:")


def comparison_text(found: Comparison) -> str:
    """Return the comparison as text, with medians, ratio, interval and margin."""
    return (
        f"{found.answer} (median {found.median_ms:.3f} ms against {found.baseline_ms:.3f} ms,"
        f" ratio {found.ratio:.3f} [{found.low:.3f}, {found.high:.3f}],"
        f" equal from {1 / found.margin:.3f} to {found.margin:.3f})"
    )


def report_json(report: Report) -> str:
    """Return the report as JSON."""
    content = {
        "schema": SCHEMA,
        "bundle": report.bundle,
        "precision": report.precision,
        "host": dict(report.host),
        "confidence": CONFIDENCE,
        "stopped": report.stopped,
        "cases": [_case_json(report, case) for case in report.cases],
    }
    return json_text(content, indent=1) + "\n"


def read_baseline(path: Path) -> Baseline:
    """Read a report that `report_json` wrote.

    Raises:
        InputError: The file is missing, no such report, or of a newer schema.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] > SCHEMA:
            raise InputError(f"{path}: a report of schema {content['schema']}, this reads up to {SCHEMA}; upgrade")
        cases = {(str(case["name"]), int(case["batch"]), int(case["streams"])): case for case in content["cases"]}
        times = {key: [float(time) for time in case["times_ms"]] for key, case in cases.items()}
        settings = {key: dict(case["settings"]) for key, case in cases.items()}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {_BASELINE_REMEDY}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a report of bench ({error}); {_BASELINE_REMEDY}") from error
    if unusable := [key[0] for key, values in times.items() if not values or min(values) <= 0]:
        raise InputError(f"{path}: no times of {', '.join(unusable)}; measure the baseline again")
    return Baseline(times_ms=times, settings=settings)


def _case_json(report: Report, case: Summary) -> dict[str, Any]:
    measured, found = case.measured, report.comparison_of(case)
    return {
        "name": measured.name,
        "graph": measured.graph,
        "batch": measured.batch,
        "streams": measured.streams,
        "shape": measured.shape,
        "settings": report.settings_of(case),
        "cold": {"open_ms": measured.open_ms, "first_call_ms": measured.first_ms},
        "warm_up": {**asdict(measured.warm_up), "rule": RULE},
        "throughput_qps": case.throughput_qps,
        "rows_per_s": case.rows_per_s,
        "wall_s": measured.wall_s,
        **{
            name: _distribution_json(times)
            for name, times in (
                ("host", case.host),
                ("latency", case.latency),
                ("enqueue", case.enqueue),
                ("h2d", case.h2d),
                ("compute", case.compute),
                ("d2h", case.d2h),
            )
        },
        "stages": [asdict(stage) for stage in case.stages],
        "board": None if case.board is None else asdict(case.board),
        "notes": list(case.notes),
        "verdict": None if found is None else asdict(found),
        "times_ms": [round(time, 6) for time in case.host_ms],
    }


def _distribution_json(times: Distribution) -> dict[str, Any]:
    return asdict(times)
