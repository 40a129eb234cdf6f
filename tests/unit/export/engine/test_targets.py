"""Devices by name: what can be built here, what cannot, and what was probably meant."""

import pytest

from internvl_edge.export.engine.targets import Target, find_target
from internvl_edge.runtime.errors import EngineError


@pytest.mark.parametrize(
    ("name", "sm"),
    [
        ("t4", 75),
        ("a100", 80),
        ("a10", 86),
        ("rtx-3090", 86),
        ("l4", 89),
        ("L40S", 89),
        ("rtx-4090", 89),
        ("rtx-5090", 120),
        ("dgx-spark", 121),
    ],
)
def test_a_device_has_an_architecture(name: str, sm: int) -> None:
    assert find_target(name) == Target(name=name.lower(), sm=sm)


@pytest.mark.parametrize("name", ["sm_89", "sm89", "SM_89"])
def test_a_bare_architecture_is_a_target(name: str) -> None:
    assert find_target(name) == Target(name="sm_89", sm=89)


@pytest.mark.parametrize("name", ["agx-orin-64gb", "agx-thor", "h100", "sm_87", "sm_90", "sm_110"])
def test_what_builds_on_the_device_itself_says_so(name: str) -> None:
    with pytest.raises(EngineError, match=f"^--target {name}: .*build on the device .*with its own TensorRT"):
        find_target(name)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("rtx4090", "rtx-4090"), ("orin", "orin-nano-8gb, orin-nx-16gb, agx-orin-64gb"), ("l40", "l40s")],
)
def test_an_unknown_device_names_near_ones(name: str, meant: str) -> None:
    with pytest.raises(EngineError, match=f"^--target {name}: unknown device; did you mean .*{meant}"):
        find_target(name)


def test_a_name_like_none_lists_them_all() -> None:
    with pytest.raises(EngineError, match=r"did you mean t4, .*b200\?$"):
        find_target("toaster")
