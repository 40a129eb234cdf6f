"""The files of a run, each written completely or not at all."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from internvl_edge.runtime.latency.measure.summary import Summary
from internvl_edge.runtime.latency.report.latency_page import page_html
from internvl_edge.runtime.latency.report.latency_report import Report, report_json
from internvl_edge.runtime.latency.report.trace import trace_json
from internvl_edge.runtime.latency.report.trtexec import profile_json, times_json
from internvl_edge.runtime.outputs.files import is_stream, write_text
from internvl_edge.runtime.outputs.strict_json import json_text

WHOLE: Mapping[str, Callable[[Report], str]] = {
    "json": report_json,
    "html": page_html,
    "trace": lambda report: trace_json([case.measured for case in report.cases]),
}
"""Option -> function that returns the content of a file with all cases."""
EACH: Mapping[str, Callable[[Summary], str]] = {
    "export_times": lambda case: times_json(case.measured.calls),
    "export_profile": lambda case: profile_json(case.layers),
    "export_layer_info": lambda case: json_text(case.layer_info) + "\n",
}
"""Option -> function that returns the content of a file with one case, as trtexec writes it."""
LAYERED = ("html", "export_profile", "export_layer_info")
"""Options that need the times of layers."""


def write_files(report: Report, paths: Mapping[str, Path | None]) -> list[Path]:
    """Write the files of all options in `paths`, and return them; files of layers only for cases with layers."""
    written = [write_text(path, WHOLE[option](report)) for option, path in paths.items() if path and option in WHOLE]
    for option, content in EACH.items():
        if path := paths.get(option):
            cases = [case for case in report.cases if option not in LAYERED or case.layers or case.layer_info]
            many = len(report.cases) > 1
            written += [write_text(case_path(path, case, many), content(case)) for case in cases]
    return written


def case_path(path: Path, case: Summary, many: bool) -> Path:
    """Return the path for one case: `path` for an only case or a stream, otherwise as ``times.vision-b1.json``."""
    if not many or is_stream(path):
        return path
    measured = case.measured
    streams = f"-s{measured.streams}" if measured.streams > 1 else ""
    name = re.sub(r"\W+", "-", measured.name)
    return path.with_name(f"{path.stem}.{name}-b{measured.batch}{streams}{path.suffix}")
