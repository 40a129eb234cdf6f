"""The form of trtexec's output: names and order of lines, keys of JSON, and the format of numbers."""

import json
import re

from internvl_edge.runtime.backends.layer_times.layers import LayerTime
from internvl_edge.runtime.latency.measure.calls import call_of
from internvl_edge.runtime.latency.measure.summary import Summary, summarize
from internvl_edge.runtime.latency.report.latency_page import page_html
from internvl_edge.runtime.latency.report.latency_report import Report, case_text
from internvl_edge.runtime.latency.report.trtexec import profile_json, summary_lines, times_json
from internvl_edge.runtime.stages import COMPUTE, Span
from tests.unit.runtime.latency_fakes import measured

LINES = """\
=== Performance summary ===
Throughput: 1099.65 qps
Latency: min = 1.12085 ms, max = 5.30969 ms, mean = 1.17602 ms, median = 1.17322 ms, percentile(90%) = 1.18164 ms, \
percentile(95%) = 1.18457 ms, percentile(99%) = 1.20386 ms
Enqueue Time: min = 0.697998 ms, max = 5.14844 ms, mean = 0.865324 ms, median = 0.88208 ms, percentile(90%) = 0.89624 \
ms, percentile(95%) = 0.901215 ms, percentile(99%) = 0.947876 ms
H2D Latency: min = 0.202148 ms, max = 0.24292 ms, mean = 0.219057 ms, median = 0.221542 ms, percentile(90%) = 0.225708 \
ms, percentile(95%) = 0.227783 ms, percentile(99%) = 0.236572 ms
GPU Compute Time: min = 0.803711 ms, max = 4.93372 ms, mean = 0.818735 ms, median = 0.809937 ms, percentile(90%) = \
0.811035 ms, percentile(95%) = 0.811035 ms, percentile(99%) = 0.812012 ms
D2H Latency: min = 0.112061 ms, max = 0.168457 ms, mean = 0.138235 ms, median = 0.142334 ms, percentile(90%) = \
0.147095 ms, percentile(95%) = 0.149506 ms, percentile(99%) = 0.150391 ms
Total Host Walltime: 3.00244 s
Total GPU Compute Time: 2.70346 s
"""
"""Output of trtexec 10, without the time stamps of its log."""
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[-+]\d+)?")


def case(times_ms: list[float], layers: list[LayerTime] | None = None) -> Summary:
    return summarize(measured(times_ms), (90.0, 95.0, 99.0), layers=layers or [])


def test_the_lines_are_trtexecs_but_for_the_numbers() -> None:
    ours = "\n".join(summary_lines(case([4.0, 5.0, 6.123456789]))) + "\n"
    without_labels = re.compile(r"percentile\((\d+)%\)")
    shapes = [NUMBER.sub("N", without_labels.sub(r"percentile[p\1]", text)) for text in (ours, LINES)]
    assert shapes[0] == shapes[1]
    assert re.findall(r"percentile\((\d+)%\)", ours) == ["90", "95", "99"] * 5


def test_the_numbers_are_those_of_the_calls() -> None:
    lines = dict(line.split(": ") for line in summary_lines(case([4.0, 5.0, 6.123456789])) if ": " in line)
    assert lines["GPU Compute Time"].startswith("min = 4 ms, max = 6.12346 ms, mean = 5.04115 ms, median = 5 ms")
    assert lines["Latency"].startswith("min = 5.5 ms, max = 7.62346 ms")
    assert lines["Throughput"] == "100 qps"  # 3 calls in 30 ms
    assert lines["Total GPU Compute Time"] == "0.0151235 s"


def test_times_have_trtexecs_keys() -> None:
    text = times_json(measured([4.0, 5.0]).calls)
    rows = json.loads(text)
    assert list(rows[0]) == [
        *("startEnqMs", "endEnqMs", "startH2dMs", "endH2dMs", "startComputeMs", "endComputeMs", "startD2hMs"),
        *("endD2hMs", "h2dMs", "computeMs", "d2hMs", "latencyMs"),
    ]
    assert rows[1]["endComputeMs"] - rows[1]["startComputeMs"] == rows[1]["computeMs"] == 5.0
    assert rows[1]["startH2dMs"] == 10.0
    lines = text.splitlines()
    assert (lines[0], lines[-1]) == ("[", "]")
    assert lines[1].startswith('  { "startEnqMs" : ')
    assert lines[2].startswith(', { "startEnqMs" : ')


def test_the_profile_has_trtexecs_keys_and_adds_up() -> None:
    layers = [
        LayerTime(name='a.b/"MatMul"', op="MatMul", times_ms=(1.0, 2.0, 6.0)),
        LayerTime(name="a.c", op="Add", times_ms=(1.0, 1.0, 1.0)),
    ]
    count, first, second = json.loads(profile_json(layers))
    assert count == {"count": 3}
    assert first == {"name": 'a.b/"MatMul"', "timeMs": 9.0, "averageMs": 3.0, "medianMs": 2.0, "percentage": 75.0}
    assert second["percentage"] == 25.0
    assert profile_json(layers).splitlines()[1] == '  { "count" : 3 }'


def test_a_processor_has_no_time_of_a_gpu() -> None:
    spans = (Span(COMPUTE, "vision", 0, 4_000_000, False, 1),)
    calls = [call_of(0, 5_000_000, spans, stream=0, origin_ns=0)]
    on_processor = summarize(measured([1.0], calls=calls, end_ns=5_000_000), (90.0,))
    names = [line.partition(":")[0] for line in summary_lines(on_processor)]
    assert names == [
        "=== Performance summary ===",
        "Throughput",
        "Latency",
        "Compute Time",
        "Total Host Walltime",
        "Total Compute Time",
    ]
    assert "min = 4 ms" in summary_lines(on_processor)[3]
    report = Report(bundle="b", precision="fp32", host={}, cases=(on_processor,))
    for text in (case_text(report, on_processor), page_html(report)):
        assert not re.search(r"GPU|H2D|D2H|Enqueue", text)
