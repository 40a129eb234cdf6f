"""Devices by name: what they are, what they can multiply, what can be built here, and what was probably meant."""

import pytest

from internvl_edge.runtime.errors import EngineError
from internvl_edge.runtime.targets.data_sheet import Target
from internvl_edge.runtime.targets.devices import TARGETS
from internvl_edge.runtime.targets.targets import find_target, require_precision
from internvl_edge.runtime.targets.targets_table import targets_json, targets_text, tensorrt_line
from tests.project import ROOT

SMS = {
    "orin-nano-8gb": 87,
    "orin-nx-16gb": 87,
    "agx-orin-64gb": 87,
    "agx-thor": 110,
    "t4": 75,
    "a100": 80,
    "a10": 86,
    "rtx-3090": 86,
    "l4": 89,
    "l40s": 89,
    "rtx-4090": 89,
    "h100": 90,
    "h200": 90,
    "gh200": 90,
    "b200": 100,
    "rtx-5090": 120,
    "dgx-spark": 121,
}
RTX = {"t4", "a100", "a10", "rtx-3090", "l4", "l40s", "rtx-4090", "rtx-5090", "dgx-spark"}
KINDS = ("fp32", "fp16", "bf16", "int8", "fp8")


def test_every_device_has_an_architecture() -> None:
    assert {target.name: target.sm for target in TARGETS} == SMS
    assert {target.name for target in TARGETS if target.rtx} == RTX


@pytest.mark.parametrize("name", ["l4", "L4", "Agx-Thor"])
def test_a_name_is_found_in_any_case(name: str) -> None:
    assert find_target(name).name == name.lower()


@pytest.mark.parametrize("name", ["sm_89", "sm89", "SM_89"])
def test_a_bare_architecture_is_a_target_without_a_sheet(name: str) -> None:
    assert find_target(name) == Target(name="sm_89", sm=89, sheet=None)


@pytest.mark.parametrize("name", ["sm_70", "sm_188", "sm_9"])
def test_an_architecture_that_tensorrt_does_not_know_is_refused(name: str) -> None:
    with pytest.raises(EngineError, match=f"^--target {name}: unknown compute capability; .*sm_75, .*sm_121$"):
        find_target(name)


@pytest.mark.parametrize("name", ["orin-nx-16gb", "t4", "a100", "a10", "sm_87"])
def test_fp8_is_refused_where_no_unit_multiplies_it(name: str) -> None:
    with pytest.raises(EngineError) as caught:
        require_precision(find_target(name), "fp8")
    message = str(caught.value)
    assert message.startswith(f"--precision fp8 --target {name}: sm_{find_target(name).sm} has no FP8; agx-thor, l4, ")
    assert "orin" not in message.partition(";")[2]


@pytest.mark.parametrize("name", ["agx-thor", "l4", "h100", "b200", "rtx-5090", "dgx-spark", "sm_89"])
def test_fp8_is_taken_from_ada_on(name: str) -> None:
    require_precision(find_target(name), "fp8")


def test_bf16_is_refused_for_turing_alone() -> None:
    with pytest.raises(
        EngineError, match=r"^--dtype bf16 --target t4: sm_75 has no bf16; .*agx-orin-64gb, .*use fp16$"
    ):
        require_precision(find_target("t4"), "bf16")
    for target in TARGETS:
        if target.sm > 75:
            require_precision(target, "bf16")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", None])
def test_every_device_takes_the_rest(precision: str | None) -> None:
    for target in TARGETS:
        require_precision(target, precision)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_sheet_agrees_with_the_architecture(target: Target) -> None:
    sheet = target.sheet
    assert sheet is not None
    assert ("fp8" in sheet.tflops, "bf16" in sheet.tflops) == (target.fp8, target.bf16)
    assert sheet.tflops.keys() >= {"fp32", "fp16", "int8"}
    # Tensor cores: 8-bit is twice 16-bit, or four times where fp32 accumulation is halved, never more.
    assert 1.9 < sheet.tflops["int8"] / sheet.tflops["fp16"] < 4.1
    assert sheet.tflops["fp32"] < sheet.tflops["fp16"]
    assert sheet.source


def test_sheets_are_dense_figures() -> None:
    """Of the devices whose vendors print sparse ones: half of what is printed."""
    printed_sparse_int8 = {"orin-nano-8gb": 67, "agx-orin-64gb": 170, "l4": 485, "l40s": 1466, "h100": 3958}
    for name, sparse in printed_sparse_int8.items():
        sheet = find_target(name).sheet
        assert sheet is not None
        assert sheet.tflops["int8"] == pytest.approx(sparse / 2, rel=0.01)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("rtx4090", "rtx-4090"), ("orin", "orin-nano-8gb, orin-nx-16gb, agx-orin-64gb"), ("l40", "l40s")],
)
def test_an_unknown_device_names_near_ones(name: str, meant: str) -> None:
    with pytest.raises(EngineError, match=f"^--target {name}: unknown device; did you mean .*{meant}"):
        find_target(name)


def test_a_name_like_none_lists_them_all() -> None:
    with pytest.raises(EngineError, match=r"did you mean orin-nano-8gb, .*dgx-spark\?$"):
        find_target("toaster")


def test_the_table_has_a_line_per_device() -> None:
    head, *lines = targets_text().splitlines()
    devices = lines[: len(TARGETS)]
    assert [line.split()[0] for line in devices] == list(SMS)
    assert [line.split()[1] for line in devices] == [str(sm) for sm in SMS.values()]
    place = head.index("built here")
    for line, target in zip(devices, TARGETS, strict=True):
        built = line[place:]
        assert built.startswith(("yes, tensorrt", "no, install the extra rtx") if target.rtx else ("no, ", "yes, "))
        assert line.split()[6] == "-" if target.sm < 89 else float(line.split()[6]) > 100


def test_json_holds_the_sheet_and_its_source() -> None:
    found = {entry["name"]: entry for entry in targets_json()}
    assert list(found) == list(SMS)
    thor = found["agx-thor"]
    assert (thor["sm"], thor["memory_gib"], thor["bandwidth_gb_s"]) == (110, 128, 273)
    assert thor["tflops"]["fp8"] == 517
    assert "Thor" in thor["source"]
    assert "JetPack 7" in thor["tensorrt"]


def test_the_guide_lists_the_same_figures_and_sources() -> None:
    guide = (ROOT / "docs" / "targets.md").read_text(encoding="utf-8")
    sources = (ROOT / "docs" / "tables" / "data-sheets.md").read_text(encoding="utf-8")
    for target in TARGETS:
        sheet = target.sheet
        assert sheet is not None
        rates = (f"{sheet.tflops[kind]:g}" if kind in sheet.tflops else "-" for kind in KINDS)
        figures = (f"{target.sm}", f"{sheet.memory_gib:g}", f"{sheet.bandwidth_gb_s:g}", *rates)
        assert f"| `{target.name}` | {' | '.join(figures)} | {tensorrt_line(target)} |" in guide
        assert f"| `{target.name}` | {sheet.source} |" in sources
