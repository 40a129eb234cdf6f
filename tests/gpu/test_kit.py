"""A kit for the device at hand: made, built from by `internvl-edge build KIT`, and run."""

from collections.abc import Callable
from pathlib import Path

import pytest

from internvl_edge.export.engine.blueprint import Blueprint
from internvl_edge.export.engine.profiles import AxisRanges
from internvl_edge.export.plans.build import BuildOptions, BuildReport, build, build_plans
from internvl_edge.export.plans.kit import make_kit
from internvl_edge.runtime import InternVL
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.targets.data_sheet import Target
from internvl_edge.runtime.targets.estimate import Limits
from internvl_edge.runtime.targets.flavour import Flavour, flavour_for
from tests.gpu.agree import Record, require_agreement
from tests.gpu.built import Built, checked
from tests.gpu.cases import CASES, case_of
from tests.gpu.marks import GPU

pytestmark = GPU


@pytest.fixture(scope="module", params=["fp16", "int8"])
def from_kit(
    request: pytest.FixtureRequest,
    bundles: Callable[[str], Path],
    target: Target,
    flavour: Flavour,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, InternVL, Built]:
    """Make a kit and build from it; return the precision, the bundle that the kit is of, and the plans."""
    origin = Bundle.open(bundles(request.param))
    folder = tmp_path_factory.mktemp("kit") / "kit"
    make_kit(origin, target, AxisRanges(), Limits(), "auto", folder)
    return (
        request.param,
        InternVL.open(origin.path, "onnxruntime"),
        checked(folder, _built(folder, target, flavour), flavour),
    )


@pytest.mark.parametrize("name", CASES)
def test_plans_of_a_kit_agree_with_the_bundle_it_is_of(
    from_kit: tuple[str, InternVL, Built], name: str, record_property: Record
) -> None:
    precision, origin, kit = from_kit
    case = case_of(origin, name)
    found = kit.load(case.graph).run(case.inputs, case.profile)
    record_property("median_ms", found.median_ms)
    require_agreement(found.values, case.expected, precision, record_property)


def _built(kit: Path, target: Target, flavour: Flavour) -> BuildReport:
    """Build from `kit` as the command does, where it takes this flavour; else as it would without the other one."""
    taken = flavour_for(target)
    if taken is None or taken.name != flavour.name:
        return build_plans(Bundle.open(kit), target, flavour, BuildOptions(), Blueprint.load(kit))
    report = build(kit, BuildOptions())
    assert isinstance(report, BuildReport), "a kit led to another kit"
    return report
