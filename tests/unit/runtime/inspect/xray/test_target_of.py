"""The target of a plan: the requested one, that of its record, that of the plan itself."""

from pathlib import Path

import pytest

from internvl_edge.runtime.bundle.engines import EngineRecord
from internvl_edge.runtime.errors import EngineError
from internvl_edge.runtime.inspect.xray.target_of import target_of
from tests.unit.runtime.inspect.xray.excerpt import write_plan


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return write_plan(tmp_path / "vision.plan")


def test_as_asked_before_all_else(plan: Path) -> None:
    assert target_of(plan, "l4").name == "l4"
    with pytest.raises(EngineError, match="unknown device"):
        target_of(plan, "toaster")


def test_as_its_record_says(plan: Path) -> None:
    record = EngineRecord(
        target="rtx-4090",
        sm=89,
        flavour="tensorrt_rtx",
        version="1",
        driver=None,
        flags={},
        weights={},
        scales_sha256=None,
    )
    record.save(plan.parent)
    assert target_of(plan).name == "rtx-4090"


def test_as_the_plan_says_where_the_record_is_missing_or_damaged(plan: Path) -> None:
    assert target_of(plan).name == "sm_89"
    (plan.parent / "engine.json").write_text("{}")
    assert target_of(plan).name == "sm_89"
