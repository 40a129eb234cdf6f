"""A run as text, JSON, trace and page: what is beside each number, and what a later run reads back."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from internvl_edge.runtime.backends.layer_times.layers import LayerTime
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.latency.measure.steady_state import WarmUp
from internvl_edge.runtime.latency.measure.summary import Summary, summarize
from internvl_edge.runtime.latency.report.files import case_path, write_files
from internvl_edge.runtime.latency.report.latency_page import page_html
from internvl_edge.runtime.latency.report.latency_report import Report, case_text, read_baseline, report_json
from internvl_edge.runtime.latency.report.trace import trace_json
from internvl_edge.runtime.latency.sensors.device_state import DeviceSample
from tests.unit.runtime.latency_fakes import MS, measured

PERCENTS = (50.0, 99.0)


def times(rng: np.random.Generator, median: float, count: int = 60) -> list[float]:
    return list(median * np.exp(0.01 * rng.standard_normal(count)))


def report_of(*cases: Summary) -> Report:
    return Report(bundle="<bundle>", precision="fp16", host={"governor": "performance"}, cases=cases)


def test_settings_stand_beside_the_numbers(rng: np.random.Generator) -> None:
    case = summarize(measured(times(rng, 5.0)), PERCENTS)
    text = case_text(report_of(case), case)
    assert "Settings: backend fake, CUDA graph on, precision fp16, governor performance" in text
    assert "Cold: open 50.0 ms, first call 9.00 ms" in text
    assert "=== Performance summary ===\nThroughput: 100 qps\nLatency: " in text
    assert "Rate: 200.0 pictures/s over 60 calls" in text
    assert re.search(r"p50 +[78]\.\d{3} +[78]\.\d{3} +[78]\.\d{3}\n", text)
    assert "compute *" in text


def test_notes_say_what_to_distrust(rng: np.random.Generator) -> None:
    rising = list(np.linspace(4.0, 6.0, 60))
    rising[10] = 60.0
    samples = [DeviceSample(time_ns=index, clock_mhz=1900.0 - 50 * index) for index in range(12)]
    late = WarmUp(calls=9, seconds=2.0, steady=False, spread=0.3)
    case = summarize(measured(rising, warm_up=late, stopped=True, samples=samples), PERCENTS, source="NVML")
    notes = "\n".join(case.notes)
    for words in ("stopped early: 60 calls", "not steady after 2.0 s", "drift: the last third", "unstable:"):
        assert words in notes
    assert "outliers: 1 of 60 calls" in notes
    assert "percentile 99: no upper bound from 60 calls; 368 give one" in notes
    assert "throttled: the clock fell by 24%" in notes
    quiet = summarize(measured(times(rng, 5.0, 400)), PERCENTS)
    assert quiet.notes == ()


def test_energy_is_of_a_row() -> None:
    samples = [DeviceSample(time_ns=0, power_w=30.0), DeviceSample(time_ns=500 * MS, power_w=30.0)]
    case = summarize(measured([5.0] * 50, samples=samples), PERCENTS, source="NVML")
    assert case.board is not None
    assert case.board.power_w == pytest.approx(30.0)
    assert case.board.joule_per_row == pytest.approx(30.0 * 0.5 / 100)  # 0.5 s, 50 calls of 2 pictures
    assert "30.00 W, 150.00 mJ a row" in case_text(report_of(case), case)


def test_a_report_is_the_next_ones_baseline(tmp_path: Path, rng: np.random.Generator) -> None:
    before = summarize(measured(times(rng, 5.0)), PERCENTS)
    (tmp_path / "before.json").write_text(report_json(report_of(before)))
    now = summarize(measured(times(rng, 7.0), settings={"backend": "fake", "CUDA graph": "off"}), PERCENTS)
    other = summarize(measured(times(rng, 7.0), name="query"), PERCENTS)
    report = replace(report_of(now, other), baseline=read_baseline(tmp_path / "before.json"))
    text = case_text(report, now)
    assert "Against the baseline: slower (median 10.0" in text
    assert "Changed: CUDA graph: on -> off" in text
    assert "Against the baseline: it has no such case" in case_text(report, other)
    assert report.slower() == ["vision, batch 2"]
    content = json.loads(report_json(report))
    assert content["cases"][0]["verdict"]["answer"] == "slower"
    assert len(content["cases"][0]["times_ms"]) == 60
    assert content["cases"][0]["warm_up"]["steady"] is True


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        ("[1, 2]", "not a report of bench"),
        ("{", "not a report of bench"),
        ('{"schema": 1, "cases": [{"name": "vision"}]}', "not a report of bench"),
        ('{"schema": 99, "cases": []}', "schema 99"),
        (
            '{"schema": 1, "cases": [{"name": "vision", "batch": 1, "streams": 1, "times_ms": [], "settings": {}}]}',
            "no times of vision",
        ),
    ],
)
def test_a_wrong_baseline_is_one_line(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "baseline.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=words) as error:
        read_baseline(path)
    assert "\n" not in str(error.value)


class _Outline(HTMLParser):
    """A parser that records open tags and external resources."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [
            value or "" for name, value in attrs if name in ("src", "href") and not (value or "").startswith("#")
        ]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_offline_and_escaped(rng: np.random.Generator) -> None:
    layers = [LayerTime(name=f"m.layers.{index}.fc<1>", op="MatMul", times_ms=(1.0 + index,)) for index in range(40)]
    report = report_of(
        summarize(measured(times(rng, 5.0, 3000)), PERCENTS, layers=layers),
        summarize(measured([5.0], name="query"), PERCENTS),
    )
    page = page_html(report)
    outline = _Outline()
    outline.feed(page)
    assert outline.open == []
    assert outline.loads == []
    assert "script" not in outline.tags
    assert "<bundle>" not in page
    assert "&lt;bundle&gt;" in page
    assert page.count('aria-label="Histogram of latencies"') == 2
    assert "the 30 longest of 40" in page
    assert page.count("<circle") < 1100, "long runs are thinned"


def test_the_trace_has_a_track_for_the_device() -> None:
    events = json.loads(trace_json([measured([5.0, 6.0])]))["traceEvents"]
    names = {event["args"]["name"]: event["tid"] for event in events if event["name"] == "thread_name"}
    spans = [event for event in events if event["ph"] == "X" and event["cat"] == "compute"]
    assert [event["dur"] for event in spans] == [5000.0, 6000.0]
    assert {event["tid"] for event in spans} == {names["stream 0, device"]}
    calls = [event for event in events if event.get("cat") == "call"]
    assert [event["ts"] for event in calls] == [0.0, 10_000.0]


def test_files_of_one_case_and_of_several(tmp_path: Path, rng: np.random.Generator) -> None:
    first, second = (summarize(measured(times(rng, 5.0), name=name), PERCENTS) for name in ("vision", "decoder step"))
    assert case_path(tmp_path / "t.json", first, many=False) == tmp_path / "t.json"
    assert case_path(tmp_path / "t.json", second, many=True) == tmp_path / "t.decoder-step-b2.json"
    written = write_files(report_of(first, second), {"json": tmp_path / "r.json", "export_times": tmp_path / "t.json"})
    assert [path.name for path in written] == ["r.json", "t.vision-b2.json", "t.decoder-step-b2.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in written)


def test_cases_follow_each_other_on_a_stream(rng: np.random.Generator) -> None:
    """A name made from that of a device would be a new file beside it."""
    case = summarize(measured(times(rng, 5.0), name="vision"), PERCENTS)
    for name in ("-", "/dev/null", "/dev/stdout"):
        assert case_path(Path(name), case, many=True) == Path(name)
