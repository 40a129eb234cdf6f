"""Text, JSON, comparison and page of an X-ray; and that no byte of a plan can break them."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from internvl_edge.runtime.errors import EngineError
from internvl_edge.runtime.inspect.xray.diff import diff_text
from internvl_edge.runtime.inspect.xray.text import duration, size, work, xray_text
from internvl_edge.runtime.inspect.xray.xray_page import render_page
from internvl_edge.runtime.inspect.xray.xray_report import PlanXray, xray, xray_json
from internvl_edge.runtime.outputs.strict_json import json_text
from internvl_edge.runtime.targets.data_sheet import Target
from tests.unit.runtime.inspect.xray.excerpt import BLOCK, ENGINE, FUSION, ROUND, plan_bytes, write_plan

SIZES = {"pixel_values": (2, 3, 70, 70)}
PLAN = plan_bytes(ENGINE, FUSION)


@pytest.fixture
def found(tmp_path: Path) -> PlanXray:
    return xray(write_plan(tmp_path / "a.plan"), target=ROUND, sizes=SIZES)


def test_the_text_answers_first(found: PlanXray) -> None:
    lines = xray_text(found).splitlines()
    assert "launches: 10" in lines
    assert "attention: fused (_gemm_mha_v2 x 1)" in lines
    assert "quantization: none" in lines
    assert any(line.startswith("predicted for round: 16.9 µs by the data sheet (round numbers)") for line in lines)
    assert sum(line.startswith("__myl_") or "_gemm_mha" in line for line in lines) >= 8


def test_json_is_the_whole_of_it(found: PlanXray) -> None:
    content = json.loads(json_text(xray_json(found)))
    assert content["schema"] == 1
    assert len(content["kernels"]) == 10
    assert content["kernels"][1]["flops"] == 2 * 52 * 576 * 192
    assert content["blocks"][BLOCK]["launches"] == 10


def test_a_plan_compared_with_itself_is_the_same(found: PlanXray) -> None:
    text = diff_text(found, found)
    assert "the same kernels" in text
    assert "+" not in text
    assert "attention: fused (_gemm_mha_v2 x 1) in both" in text


def test_a_comparison_names_what_comes_and_goes(found: PlanXray, tmp_path: Path) -> None:
    merged = re.sub(rb"  function=\{ name=__myl_SlicReshTranReshMove .*\n", b"", ENGINE)
    other = xray(write_plan(tmp_path / "b.plan", merged, FUSION), target=ROUND, sizes=SIZES)
    text = diff_text(found, other)
    assert "  -1 __myl_SlicReshTranReshMove (1 in A, 0 in B)" in text
    (launches,) = (line for line in text.splitlines() if line.startswith("layers.0: launches"))
    assert launches.split()[2:] == ["10", "9", "-1", "(-10.0%)"]


def test_a_comparison_at_other_shapes_or_devices_says_so(found: PlanXray, tmp_path: Path) -> None:
    other = xray(tmp_path / "a.plan", target=Target(name="l4", sm=89, sheet=None))
    text = diff_text(found, other)
    assert "compared at different shapes" in text
    assert "for different devices: A round (sm_89), B l4 (sm_89)" in text


def page_of(found: PlanXray) -> str:
    return render_page({"a.plan": found})


class Page(HTMLParser):
    """Collects what a page would load, and whether its tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "data")]
        if tag not in ("meta", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An empty element of the picture."""


def test_the_page_stands_alone_and_shows_every_kernel(found: PlanXray) -> None:
    html = page_of(found)
    page = Page()
    page.feed(html)
    assert (page.open, page.loads) == ([], [])
    assert "://" not in html
    picture = html[html.index("<svg") : html.index("</svg>")]
    assert picture.count("<circle") == 10
    assert "CastMulMean" in picture
    assert "Predicted time" in html


def test_bars_are_as_wide_as_their_bytes(found: PlanXray) -> None:
    picture = re.findall(r'<rect class="c-(\w+) ([wro])" x="[\d.]+" y="(\d+)" width="([\d.]+)"', page_of(found))
    qkv = {shade: float(width) for kind, shade, y, width in picture if int(y) == 34 + 46 + 8}
    kernel = found.kernels[1]
    assert kernel.read_bytes is not None
    assert kernel.weight_bytes is not None
    assert kernel.written_bytes is not None
    assert qkv["w"] / qkv["o"] == pytest.approx(kernel.weight_bytes / kernel.written_bytes, rel=1e-3)
    assert sum(qkv.values()) == pytest.approx(460, abs=0.1)  # it moves most: the whole width


def test_names_from_a_plan_are_escaped(tmp_path: Path) -> None:
    text = ENGINE.replace(b"layers.0.norm1]", b"layers.0.<script>alert(1)</script>]")
    html = page_of(xray(write_plan(tmp_path / "a.plan", text, FUSION), target=ROUND))
    assert "<script>alert" not in html


def test_a_plan_without_a_schedule_is_said_everywhere(tmp_path: Path) -> None:
    path = tmp_path / "a.plan"
    path.write_bytes(b"ftrt" + bytes(100))
    blank = xray(path, target=ROUND)
    assert "not readable: no execution schedule" in xray_text(blank)
    assert "Not readable: no execution schedule" in page_of(blank)
    assert "not readable in B: no execution schedule" in diff_text(blank, blank)
    assert json.loads(json_text(xray_json(blank)))["kernels"] == []


def test_another_sm_is_noted(tmp_path: Path) -> None:
    found = xray(write_plan(tmp_path / "a.plan"), target=Target(name="a100", sm=80, sheet=ROUND.sheet))
    assert found.notes == ("the plan is for sm_89, a100 is sm_80",)


def test_profiles_are_chosen_by_number_or_by_what_fits(tmp_path: Path) -> None:
    small = ENGINE.replace(b'"__s^8i64"', b'"__s^1i64"')
    plan = write_plan(tmp_path / "two.plan", small, FUSION, ENGINE, FUSION)
    assert xray(plan, target=ROUND, sizes=SIZES).profile == 1
    assert xray(plan, target=ROUND).profile == 0
    assert xray(plan, target=ROUND, profile=1).profile == 1
    with pytest.raises(EngineError, match="has no profile 2; it has 2"):
        xray(plan, target=ROUND, profile=2)
    with pytest.raises(EngineError, match=r"two\.plan: sizes: pixel_values\[0\] is 9"):
        xray(plan, target=ROUND, sizes={"pixel_values": (9, 3, 70, 70)}, profile=1)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (size(0), "0 B"),
        (size(999), "999 B"),
        (size(1000), "1 kB"),
        (size(99950), "100 kB"),
        (size(2.5e12), "2500 GB"),
        (size(None), "–"),
        (work(0), "–"),
        (work(3.0732e12), "3.07 TFLOP"),
        (duration(1.2345), "1.23 ms"),
        (duration(0.9996), "1 ms"),
        (duration(0.0123), "12.3 µs"),
        (duration(None), "–"),
    ],
)
def test_numbers_have_three_digits(shown: str, expected: str) -> None:
    assert shown == expected


FAST = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def seen(path: Path, content: bytes) -> None:
    """Look at `content` in every way; only an `EngineError` may come."""
    path.write_bytes(content)
    try:
        found = xray(path, target=ROUND, sizes=SIZES)
    except EngineError:
        return
    assert xray_text(found).startswith(str(path))
    assert page_of(found).startswith("<!doctype html>")
    assert json.loads(json_text(xray_json(found)))["plan_bytes"] == len(content)


def test_a_plan_without_outputs_has_no_launches(tmp_path: Path) -> None:
    seen(
        tmp_path / "empty.plan", plan_bytes(ENGINE.replace(b"output", b"stream"), FUSION.replace(b"output", b"stream"))
    )


@FAST
@given(content=st.binary(max_size=300), magic=st.sampled_from([b"", b"vtrt", b"ftrt", b"vtrtheader {\n"]))
def test_random_bytes_raise_nothing_else(tmp_path: Path, content: bytes, magic: bytes) -> None:
    seen(tmp_path / "random.plan", magic + content)


@FAST
@given(data=st.data())
def test_a_damaged_plan_raises_nothing_else(tmp_path: Path, data: st.DataObject) -> None:
    start = data.draw(st.integers(4, len(PLAN)))
    end = data.draw(st.integers(start, min(start + 400, len(PLAN))))
    noise = data.draw(
        st.binary(max_size=20) | st.sampled_from([b'"', b"{", b"}", b"\n}\n", b"={ ", b'"" ', b"-1", b"0"])
    )
    seen(tmp_path / "damaged.plan", PLAN[:start] + noise + PLAN[end:])


@FAST
@given(data=st.data())
def test_exchanged_words_raise_nothing_else(tmp_path: Path, data: st.DataObject) -> None:
    words = re.findall(rb'"[^"]*"|\w+', ENGINE)
    old, new = data.draw(st.sampled_from(words)), data.draw(st.sampled_from(words))
    seen(tmp_path / "exchanged.plan", plan_bytes(ENGINE.replace(old, new), FUSION.replace(old, new)))
