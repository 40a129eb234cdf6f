"""Charts: every call is in a bar, values lie where the axes say, and texts are escaped."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from internvl_edge.runtime.latency.report.svg import WIDTH, bars, histogram, timeline


def elements(svg: str, tag: str, kind: str) -> list[ET.Element]:
    return [each for each in ET.fromstring(svg).iter(tag) if each.get("class") == kind]


def counts(svg: str) -> list[int]:
    return [int(re.search(r": (\d+) calls", each.findtext("title") or "")[1]) for each in elements(svg, "rect", "bar")]


@pytest.mark.parametrize("times", [[5.0], [5.0] * 100, list(range(1, 1001)), [1.0] * 999 + [1000.0]])
def test_a_histogram_counts_every_call(times: list[float]) -> None:
    assert sum(counts(histogram(times, []))) == len(times)


def test_the_slowest_share_the_last_bar() -> None:
    times = [*np.linspace(1, 2, 1000), 50.0]
    found = elements(histogram(times, []), "rect", "bar")
    assert float(found[-1].findtext("title").split()[2]) < 2.1


def test_marks_lie_at_their_values_and_names_do_not_lie_on_each_other() -> None:
    svg = histogram(list(np.linspace(0, 10, 101)), [("p50 <", 5.0), ("p51", 5.1), ("p99", 99.0)])
    lines = [float(each.get("x1")) for each in elements(svg, "line", "mark")]
    texts = elements(svg, "text", "mark")
    assert lines[0] == pytest.approx(44 + 0.5 * (WIDTH - 56), abs=3)
    assert lines[2] == pytest.approx(WIDTH - 12, abs=0.1), "beyond the last bar: at its end"
    assert [each.text for each in texts] == ["p50 <", "p51", "p99"]
    assert texts[0].get("y") != texts[1].get("y")


def test_a_timeline_has_a_dot_for_each_call_of_a_short_run() -> None:
    svg = timeline([0.0, 1000.0, 2000.0], [10.0, 20.0, 40.0])
    dots = [(float(each.get("cx")), float(each.get("cy"))) for each in elements(svg, "circle", "dot")]
    assert [x for x, _ in dots] == [44.0, 44 + (WIDTH - 56) / 2, WIDTH - 12]
    heights = [166 - y for _, y in dots]
    assert heights[1] / heights[0] == pytest.approx(2, rel=0.01)
    assert heights[2] / heights[0] == pytest.approx(4, rel=0.01)


def test_a_long_timeline_keeps_its_extremes(rng: np.random.Generator) -> None:
    times = rng.uniform(5, 6, 20_000)
    times[12_345], times[777] = 90.0, 0.5
    dots = elements(timeline(np.arange(20_000.0), times), "circle", "dot")
    assert len(dots) <= 500
    heights = sorted(166 - float(each.get("cy")) for each in dots)
    top = 148 / 1.05
    assert heights[-1] == pytest.approx(top, abs=0.1)
    assert heights[0] == pytest.approx(top * 0.5 / 90, abs=0.1)


def test_bars_are_shares_of_the_longest() -> None:
    svg = bars([("a<b", 4.0, "4 ms"), ("c" * 60, 1.0, "1 ms"), ("d", 0.0, "0")])
    assert [float(each.get("width")) for each in elements(svg, "rect", "bar")] == [250.0, 62.5, 1.0]
    names = elements(svg, "text", "name e")
    assert names[0].text == "a<b"
    assert names[1].text == "…" + "c" * 51
    assert names[1].findtext("title") == "c" * 60


def test_no_bars_are_an_empty_picture() -> None:
    assert elements(bars([]), "rect", "bar") == []
