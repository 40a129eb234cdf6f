"""The report of `make gpu-check`: one line a check, as JSON for programs and as Markdown for people."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Check = Mapping[str, Any]

_HEAD = ("check", "outcome", "figures", "reason")


def check_of(nodeid: str, outcome: str, reason: str, figures: Mapping[str, object], seconds: float) -> dict[str, Any]:
    """Return a check as JSON holds it; `reason` is why it was skipped, or the whole failure."""
    return {
        "check": nodeid.rpartition("/")[2],
        "outcome": outcome,
        "reason": reason.removeprefix("Skipped: "),
        "figures": dict(figures),
        "seconds": round(seconds, 3),
    }


def report_markdown(content: Mapping[str, Any]) -> str:
    """Return the report: `content` has the ``device``, the ``versions`` of packages and the ``checks``."""
    checks: Sequence[Check] = content["checks"]
    outcomes = [check["outcome"] for check in checks]
    counts = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in ("passed", "failed", "skipped"))
    lines = [
        "# What only a GPU can show",
        "",
        f"- device: {_device_text(content['device'])}",
        *(f"- {name}: {version or 'not installed'}" for name, version in content["versions"].items()),
        f"- checks: {counts}",
        "",
        *_table([_HEAD, *(_row(check) for check in checks)]),
        "",
        *_failures(checks),
    ]
    return "\n".join(lines)


def check_title(check: str) -> str:
    """Return ``test_plans.py::test_a_plan_runs[fp16-text]`` as "a plan runs: fp16, text"."""
    name, _, parameters = check.rpartition("::")[2].partition("[")
    title = name.removeprefix("test_").replace("_", " ")
    return f"{title}: {parameters[:-1].replace('-', ', ')}" if parameters else title


def _device_text(device: Mapping[str, Any] | str) -> str:
    if isinstance(device, str):
        return f"none ({device})"
    return f"{device['name']}, sm_{device['sm']}, {device['memory_bytes'] / 2**30:.1f} GiB, CUDA {device['driver']}"


def _row(check: Check) -> tuple[str, ...]:
    figures = "; ".join(f"{name} {_figure(value)}" for name, value in check["figures"].items())
    return (check_title(check["check"]), check["outcome"], figures, _one_line(check))


def _figure(value: object) -> str:
    """Return a number with four digits, so that columns compare; whole numbers with all of theirs."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _one_line(check: Check) -> str:
    """Return the reason of a skip; of a failure the first line that pytest marks as the error."""
    reason = str(check["reason"])
    if check["outcome"] != "failed":
        return reason
    marked = [line[1:].strip() for line in reason.splitlines() if re.match(r"E\s", line)]
    return (marked or reason.strip().splitlines()[-1:] or ["no reason was given"])[0]


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for number, row in enumerate(rows):
        yield f"| {' | '.join(_cell(text) for text in row)} |"
        if number == 0:
            yield f"|{' --- |' * len(row)}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _failures(checks: Sequence[Check]) -> Iterator[str]:
    """Yield the whole text of each failure; indented, since it may hold any fence."""
    for check in checks:
        if check["outcome"] == "failed":
            yield f"## {check_title(check['check'])}"
            yield ""
            yield from (f"    {line}".rstrip() for line in str(check["reason"]).splitlines())
            yield ""
