"""The page of several plans under a cover: a list of them, and a section for each."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from internvl_edge.runtime.inspect.xray.xray_page import Cover, render_page
from internvl_edge.runtime.inspect.xray.xray_report import PlanXray, xray
from tests.unit.runtime.inspect.xray.excerpt import ROUND, write_plan


@pytest.fixture
def found(tmp_path: Path) -> PlanXray:
    return xray(write_plan(tmp_path / "a.plan"), target=ROUND, sizes={"pixel_values": (2, 3, 70, 70)})


def test_a_page_of_several_plans_needs_a_cover(found: PlanXray) -> None:
    for plans in ({}, {"a": found, "b": found}):
        with pytest.raises(ValueError, match=f"{len(plans)} plans on a page without a cover"):
            render_page(plans)


def test_every_plan_has_a_row_and_a_section(found: PlanXray) -> None:
    unread = replace(found, kernels=(), unreadable=("no schedule",))
    html = render_page({"vision <a>": found, "text": unread}, Cover(title="Plans & more", lines=("a<b",), mark='"m"'))
    assert "<title>Plans &amp; more</title>" in html
    assert '<meta name="plans" content="&quot;m&quot;">' in html
    assert '<p class="soft">a&lt;b</p>' in html
    assert re.findall(r'<a href="#plan-(\d)">([^<]*)</a>', html) == [("1", "vision &lt;a&gt;"), ("2", "text")]
    assert re.findall(r'id="plan-(\d)"', html) == ["1", "2"]
    assert html.count('colspan="6">not readable</td>') == 1
    assert "<details open>" not in html, "tables are folded where there are several plans"


def test_figures_that_a_plan_does_not_tell_are_dashes(found: PlanXray) -> None:
    plans = {"a": replace(found, quantized_share=None, middle=None)}
    html = render_page(plans, Cover(title="t", lines=(), mark="m"))
    (row,) = re.findall(r'<tr><td><a href="#plan-1">a</a></td>(.*?)</tr>', html)
    cells = re.findall(r"<td>(.*?)</td>", row)
    assert (cells[0], cells[1], cells[3]) == ("10", "–", "–")
