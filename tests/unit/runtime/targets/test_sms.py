"""The rows of compute capabilities and devices, and what is derived from them."""

import re

import pytest

from internvl_edge.runtime.errors import EngineError
from internvl_edge.runtime.targets.data_sheet import DataSheet, Target
from internvl_edge.runtime.targets.devices import TARGETS
from internvl_edge.runtime.targets.sms import (
    FIRST_BF16_SM,
    FIRST_FP8_SM,
    FIRST_TENSOR_CORE_SM,
    RTX_SMS,
    SMS,
    Sm,
    sm_row,
)

BY_NUMBER = {row.sm: row for row in SMS}
BY_NAME = {target.name: target for target in TARGETS}


def test_derived_tables_are_what_the_vendors_say() -> None:
    assert tuple(BY_NUMBER) == (75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121)
    assert RTX_SMS == (75, 80, 86, 89, 120, 121)
    assert (FIRST_BF16_SM, FIRST_FP8_SM, FIRST_TENSOR_CORE_SM) == (80, 89, 80)
    versions = {75: 80, 80: 80, 86: 80, 87: 80, 89: 80, 90: 80, 100: 86, 103: 88, 110: 90, 120: 87, 121: 88}
    assert {row.sm: row.ptx_version for row in SMS} == versions
    assert {row.sm: row.fp8_ptx_version for row in SMS if row.fp8_ptx_version} == {89: 84}


def test_what_begins_with_one_sm_does_not_end_with_a_later_one() -> None:
    for kind in ("bf16", "fp8", "tensor_core_code"):
        answers = [getattr(row, kind) for row in SMS]
        assert answers == sorted(answers), kind


@pytest.mark.parametrize("row", SMS, ids=lambda row: f"sm_{row.sm}")
def test_a_row_is_complete_and_agrees_with_itself(row: Sm) -> None:
    assert row.tensorrt.startswith("TensorRT")
    assert row.rtx == row.tensorrt.startswith("TensorRT-RTX")
    assert row.block_shared_kib << 10 <= (row.shared_kib << 10) - row.reserved_bytes
    assert row.warps >= row.blocks
    assert row.tiles_like in BY_NUMBER
    assert 0 < row.mma_share <= 1
    board = BY_NAME[row.device]
    assert board.sheet is not None
    assert board.sm == row.sm or (row.sm, board.sm) == (103, 100)  # no device of 103 is listed; the B200 stands for it


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_device_has_a_row_for_its_sm_and_a_sheet_that_agrees_with_it(target: Target) -> None:
    row, sheet = BY_NUMBER[target.sm], target.sheet
    assert isinstance(sheet, DataSheet)
    # Two operations for a multiply-add. Sheets of datacenter parts state fp32 at a higher clock than the tensor peak.
    fp32 = 2 * row.fp32_units * sheet.multiprocessors * sheet.clock_ghz / 1e3
    assert fp32 == pytest.approx(sheet.tflops["fp32"], rel=0.13)


def test_a_driver_name_is_that_of_one_device() -> None:
    for name in ("Tesla T4", "NVIDIA A100-SXM4-80GB", "NVIDIA L4", "NVIDIA L40S", "NVIDIA H200", "NVIDIA GB10"):
        found = [target for target in TARGETS if target.driver_name and re.fullmatch(target.driver_name, name)]
        assert len(found) == 1, name


@pytest.mark.parametrize(("sm", "known"), [(80, 80), (88, 87), (101, 100), (130, 121)])
def test_the_nearest_lower_sm(sm: int, known: int) -> None:
    assert sm_row(sm) is BY_NUMBER[known]


def test_nothing_is_below_the_first_sm() -> None:
    with pytest.raises(EngineError, match=r"^sm_70: no kernel can be compiled for it; sm_75 and newer are supported$"):
        sm_row(70)
