"""Occupancy, against figures worked out by hand from the programming guide's table."""

from dataclasses import replace

import pytest

from internvl_edge.export.plugins.compile_kernel import CompiledKernel
from internvl_edge.export.plugins.tiling.occupancy import fits, occupancy
from internvl_edge.export.plugins.tiling.tiles_model import Work, predicted_us
from internvl_edge.runtime.targets.sms import sm_row

KERNEL = CompiledKernel(
    plugin="gram",
    sm=89,
    compiled_sm=89,
    entry="gram",
    ptx="",
    parameters=(),
    warps=4,
    shared_bytes=0,
    registers=32,
    spill_bytes=0,
    stack_bytes=0,
    tensor_memory_columns=0,
    tensor_cores="mma",
    triton="3.8.0",
    grid=(1, 1, 1),
)
WORK = Work(
    blocks=1000,
    steps=10,
    step_flops=4 * 64 * 64 * 64,
    step_exponentials=64 * 64,
    step_arithmetic=6 * 64 * 64,
    step_bytes=2 * 64 * 64 * 2,
    unique_bytes=1e7,
    useful_flops=1e10,
    product_type="fp16",
)


@pytest.mark.parametrize(
    ("changes", "blocks", "bound"),
    [
        ({}, 12, "warps"),  # 48 warps / 4
        ({"warps": 1}, 24, "blocks"),
        ({"registers": 255}, 2, "registers"),  # 8192 a warp, 2 warps in each quarter of 16384
        ({"registers": 168}, 3, "registers"),  # 5376 a warp, 3 in each quarter
        ({"shared_bytes": 48 << 10}, 2, "shared memory"),  # 49 KiB with the system's, of 100
        ({"shared_bytes": 99 << 10}, 1, "shared memory"),
        ({"shared_bytes": (99 << 10) + 1}, 0, "shared memory"),
        ({"sm": 80, "registers": 32}, 16, "warps"),
        ({"sm": 75, "shared_bytes": 64 << 10}, 1, "shared memory"),
        ({"sm": 90, "shared_bytes": 113 << 10}, 2, "shared memory"),
        ({"sm": 100, "tensor_memory_columns": 256}, 2, "tensor memory"),
        ({"sm": 130}, 12, "warps"),
    ],
)
def test_what_runs_out_first(changes: dict[str, int], blocks: int, bound: str) -> None:
    kernel = replace(KERNEL, **changes)  # type: ignore[arg-type]
    found = occupancy(kernel)
    assert (found.blocks, found.bound) == (blocks, bound)
    assert found.fraction == blocks * kernel.warps / sm_row(kernel.sm).warps
    assert fits(kernel) == (blocks > 0)


@pytest.mark.parametrize(
    "worse",
    [
        {"tensor_cores": ""},
        {"spill_bytes": 4000},
        {"shared_bytes": 90 << 10},
    ],
)
def test_the_model_prefers_what_is_cheaper(worse: dict[str, int]) -> None:
    assert predicted_us(replace(KERNEL, **worse), WORK, 2) > predicted_us(KERNEL, WORK, 2)  # type: ignore[arg-type]


def test_nothing_is_faster_than_its_memory() -> None:
    huge = replace(WORK, unique_bytes=300e9)
    assert 1.0e6 < predicted_us(KERNEL, huge, 2) < 1.3e6  # the L4's sheet says 300 GB in a second; no kernel gets all
    assert predicted_us(replace(KERNEL, shared_bytes=1 << 20), WORK, 2) == float("inf")
