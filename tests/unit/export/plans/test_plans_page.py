"""The page of all plans of a target: a section for each, links that lead there, and what happens where a plan fails."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from internvl_edge.export.plans.plans_page import write_plans_page, xrays_of
from internvl_edge.runtime.bundle.engines import EngineRecord, GraphEngines, PlanRecord, Profile
from internvl_edge.runtime.errors import ExportError
from internvl_edge.runtime.inspect.xray.xray_page import render_page
from tests.unit.runtime.inspect.xray.excerpt import ENGINE, FUSION, plan_bytes
from tests.unit.runtime.inspect.xray.test_outputs import Page

PROFILE: Profile = {"pixel_values": ((1, 3, 70, 70), (2, 3, 70, 70), (8, 3, 70, 70))}
TWO = plan_bytes(ENGINE, FUSION, ENGINE, FUSION)
"""A plan of two profiles."""

PHASES = {"vision": (), "decoder": ("prompt", "step")}


def plan_record(file: str, content: bytes) -> PlanRecord:
    outputs = ("vision_states", "image_embeds")
    return PlanRecord(
        file=file, bytes=len(content), sha256=file, inputs=("pixel_values",), outputs=outputs, seconds=1, peak_bytes=1
    )


def graph(profiles: int, **plans: bytes) -> GraphEngines:
    records = tuple(plan_record(f"{name}.plan", content) for name, content in plans.items())
    return GraphEngines(graph_sha256="", key="", profiles=(PROFILE,) * profiles, plans=records)


@pytest.fixture
def record(tmp_path: Path) -> EngineRecord:
    """One plan that can be read, one of two profiles, one that is none; all in the bundle ``tmp_path``."""
    plans = {"vision": plan_bytes(ENGINE, FUSION), "decoder": TWO, "text": b"not a plan"}
    for name, content in plans.items():
        (tmp_path / f"{name}.plan").write_bytes(content)
    graphs = {name: graph(1 + (name == "decoder"), **{name: content}) for name, content in plans.items()}
    return EngineRecord(
        target="rtx-4090",
        sm=89,
        flavour="tensorrt_rtx",
        version="1.7.1",
        driver=None,
        flags={},
        weights={},
        scales_sha256=None,
        graphs=graphs,
    )


def test_each_profile_of_each_plan_is_seen_at_the_sizes_it_is_tuned_for(tmp_path: Path, record: EngineRecord) -> None:
    found = xrays_of(tmp_path, record, PHASES)
    assert list(found) == ["vision.plan", "decoder.plan, prompt", "decoder.plan, step", "text.plan"]
    assert [x.profile for x in found.values()] == [0, 0, 1, 0]
    assert [x.shapes.get("pixel_values") for x in found.values()] == [(2, 3, 70, 70)] * 3 + [None]
    assert all(x.assumed == () for x in found.values())
    (why,) = found["text.plan"].unreadable
    assert why.startswith("no TensorRT plan (it begins with")


def test_the_page_has_a_section_for_each_and_loads_nothing(tmp_path: Path, record: EngineRecord) -> None:
    html = write_plans_page(tmp_path, tmp_path, record, PHASES).read_text()
    page = Page()
    page.feed(html)
    assert page.open == []
    sections = re.findall(r'<section class="plan" id="([\w-]+)">', html)
    assert len(sections) == 4
    assert [link for link in page.loads if link != "#top"] == [f"#{name}" for name in sections]
    assert "://" not in html
    assert html.count('<table class="kernels">') == 3
    assert "Not readable: no TensorRT plan" in html
    assert f'<h1 id="top">X-ray of {tmp_path.name} for rtx-4090</h1>' in html
    assert "all times are predictions" in html
    assert str(tmp_path) not in html


def test_a_profile_that_a_plan_lacks_is_said(tmp_path: Path, record: EngineRecord) -> None:
    more = replace(record, graphs={"vision": replace(record.graphs["vision"], profiles=(PROFILE,) * 2)})
    found = xrays_of(tmp_path, more, PHASES)
    assert found["vision.plan, profile 1"].unreadable == ("has no profile 1; it has 1, counted from 0",)


def test_a_missing_plan_is_said(tmp_path: Path, record: EngineRecord) -> None:
    (tmp_path / "vision.plan").unlink()
    (why,) = xrays_of(tmp_path, record, PHASES)["vision.plan"].unreadable
    assert "cannot be read as a plan" in why


def test_a_page_of_the_same_plans_stays_and_any_other_goes(tmp_path: Path, record: EngineRecord) -> None:
    page = write_plans_page(tmp_path, tmp_path, record, PHASES)
    written = page.stat().st_ino
    assert write_plans_page(tmp_path, tmp_path, record, PHASES).stat().st_ino == written
    assert "for l4" in write_plans_page(tmp_path, tmp_path, replace(record, target="l4"), PHASES).read_text()
    page.write_text("what `inspect --html` wrote")
    assert "for rtx-4090" in write_plans_page(tmp_path, tmp_path, record, PHASES).read_text()
    assert [path.name for path in page.parent.iterdir()] == ["engine.html"]


def test_a_page_that_cannot_be_written_is_one_line(tmp_path: Path, record: EngineRecord) -> None:
    (tmp_path / "reports" / "engine.html").mkdir(parents=True)
    with pytest.raises(ExportError, match=r"engine\.html: cannot be written \(Is a directory\); the plans are built"):
        write_plans_page(tmp_path, tmp_path, record, PHASES)
    assert [path.name for path in (tmp_path / "reports").iterdir()] == ["engine.html"]


def test_several_plans_need_a_cover(tmp_path: Path, record: EngineRecord) -> None:
    with pytest.raises(ValueError, match="4 plans on a page without a cover"):
        render_page(xrays_of(tmp_path, record, PHASES))
