"""What a choice of tiles would cost on a device, from the compiled kernel and data sheets.

A block's loop over keys takes tensor cores, the exponential unit, plain arithmetic and cache bandwidth. One block does
these in turn; blocks that share a multiprocessor overlap them, until the busiest unit is the limit. The constants are
fitted to launches measured on an H100 (`benchmarks/attention_model.py` holds them against each other; figures in
docs/benchmarks.md); on other devices nothing was measured. The figures serve to rank tiles of one kernel on one device;
they are not a promise of latency.
"""

from dataclasses import dataclass

from internvl_edge.export.plugins.compile_kernel import CompiledKernel
from internvl_edge.export.plugins.tiling.occupancy import occupancy
from internvl_edge.runtime.targets.data_sheet import DataSheet
from internvl_edge.runtime.targets.sms import sm_row
from internvl_edge.runtime.targets.targets import find_target


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a launch does, padding of its tiles included."""

    blocks: int
    steps: float
    """Turns of a block's loop over keys."""
    step_flops: float
    """Of the two products, per turn."""
    step_exponentials: float
    step_arithmetic: float
    """Other fp32 operations per turn: scaling, masks, maxima, sums, the rescaled accumulator, codes made 16 bits."""
    step_bytes: float
    """Read per turn, from L2 at best."""
    unique_bytes: float
    """What the whole launch reads and writes of memory at least once."""
    useful_flops: float
    """Of the whole launch without padding."""
    product_type: str
    """``fp16``, ``bf16``, ``fp8`` or ``int8``: what the tensor cores multiply."""

    @property
    def intensity(self) -> float:
        """Return FLOP per byte of memory."""
        return self.useful_flops / self.unique_bytes


_EXPONENTIALS_PER_CLOCK = 16
"""Per multiprocessor: four special function units in each quarter; CUDA programming guide, arithmetic throughput."""
_CACHE_BYTES_PER_CLOCK = 36
"""Read from L2 per multiprocessor."""
_LATENCY_CLOCKS = 1300
"""From asking memory to having, for one stage of loads; more stages ask that much earlier."""
_TURN_CLOCKS = 150
"""Of barriers and reductions between warps, per turn."""
_REACHED = 0.76
"""Of the tensor peak within a loop of dependent products."""
_INSTRUCTIONS = 1.75
"""Per fp32 operation that `Work` counts: addresses, masks and moves come on top."""
_SECOND_HALF = 0.65
"""How much of its work a block of eight warps overlaps with that of its other half."""
_SHARPNESS = 2.56
"""Exponent of the mean of what one block waits and what the busiest unit takes; infinite would be the larger."""
LAUNCH_US = 2.0
"""Of a kernel behind another in a CUDA graph."""
_BANDWIDTH = 0.85
"""Of the sheet's, that a kernel reaches."""


def memory_us(moved_bytes: float, sm: int) -> float:
    """Return microseconds that reading and writing `moved_bytes` takes on the board that stands for `sm`."""
    return moved_bytes / (_sheet(sm).bandwidth_gb_s * 1e3 * _BANDWIDTH)


def best_case_us(work: Work, sm: int) -> float:
    """Return microseconds of `work` by a kernel that keeps the busiest unit of every multiprocessor busy."""
    sheet = _sheet(sm)
    clocks = sheet.multiprocessors * sheet.clock_ghz * 1e3
    turns = work.blocks * work.steps
    peak = sheet.tflops.get(work.product_type, sheet.tflops["fp32"])
    parts = (
        turns * work.step_flops / (peak * 1e6 * _REACHED),
        turns * work.step_exponentials / (_EXPONENTIALS_PER_CLOCK * clocks),
        turns * work.step_arithmetic / (sm_row(sm).fp32_units * clocks),
        memory_us(work.unique_bytes, sm),
    )
    return max(parts)


def predicted_us(kernel: CompiledKernel, work: Work, stages: int) -> float:
    """Return microseconds on the board that stands for the kernel's SM; infinite if it does not fit."""
    resident = occupancy(kernel).blocks
    if resident == 0:
        return float("inf")
    sheet = _sheet(kernel.sm)
    resident = min(resident, -(-work.blocks // sheet.multiprocessors))
    turn = _turn_clocks(kernel, work, sheet, resident, stages)
    waves = -(-work.blocks // (sheet.multiprocessors * resident))
    compute_us = waves * work.steps * turn / (sheet.clock_ghz * 1e3)
    return LAUNCH_US + max(compute_us, memory_us(work.unique_bytes, kernel.sm))


def _sheet(sm: int) -> DataSheet:
    sheet = find_target(sm_row(sm).device).sheet
    assert sheet is not None
    return sheet


def _turn_clocks(kernel: CompiledKernel, work: Work, sheet: DataSheet, resident: int, stages: int) -> float:
    """Return clocks in which each of `resident` blocks on a multiprocessor makes one turn of its loop."""
    row = sm_row(kernel.sm)
    lone_mma = kernel.tensor_cores == "mma"
    share = _REACHED * (row.mma_share if lone_mma else 1.0)
    peak = sheet.tflops.get(work.product_type, sheet.tflops["fp32"]) if kernel.tensor_cores else sheet.tflops["fp32"]
    flops_per_clock = peak * 1e3 / sheet.clock_ghz / sheet.multiprocessors * share
    parts = (
        work.step_flops / flops_per_clock,
        work.step_exponentials / _EXPONENTIALS_PER_CLOCK,
        (work.step_arithmetic * _INSTRUCTIONS + kernel.spill_bytes / 4 * kernel.threads) / row.fp32_units,
        work.step_bytes / _CACHE_BYTES_PER_CLOCK,
    )
    longest = max(parts)
    alone = longest + (sum(parts) - longest) / (1 + _SECOND_HALF * max(kernel.warps / 4 - 1, 0.0))
    waits = alone + _TURN_CLOCKS + _LATENCY_CLOCKS / stages
    return float(((resident * longest) ** _SHARPNESS + waits**_SHARPNESS) ** (1 / _SHARPNESS))
