"""Predict the time of a kernel with given tiles on a device, from the compiled kernel and data sheets.

A block's loop over keys uses tensor cores, the exponential unit, plain arithmetic and cache bandwidth. One block uses
them one after the other; blocks on the same multiprocessor overlap, until the busiest unit is the limit. The constants
are fitted to launches measured on an H100 (`benchmarks/attention_model.py` compares them; figures are in
docs/benchmarks.md). Nothing was measured on other devices. The predictions rank tiles of one kernel on one device; they
are not latencies.
"""

from dataclasses import dataclass

from internvl_edge.export.plugins.compile_kernel import CompiledKernel
from internvl_edge.export.plugins.tiling.occupancy import occupancy
from internvl_edge.runtime.targets.data_sheet import DataSheet
from internvl_edge.runtime.targets.sms import sm_row
from internvl_edge.runtime.targets.targets import find_target


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Work of one launch, including the padding of its tiles."""

    blocks: int
    steps: float
    """Iterations of a block's loop over keys."""
    step_flops: float
    """FLOP of the two products in one iteration."""
    step_exponentials: float
    step_arithmetic: float
    """Other fp32 operations of one iteration: scaling, masks, maxima, sums, rescaling, conversion of codes."""
    step_bytes: float
    """Bytes read in one iteration, at best from L2."""
    unique_bytes: float
    """Bytes of device memory that the whole launch reads or writes at least once."""
    useful_flops: float
    """FLOP of the whole launch without padding."""
    product_type: str
    """Type that the tensor cores multiply: ``fp16``, ``bf16``, ``fp8`` or ``int8``."""

    @property
    def intensity(self) -> float:
        """FLOP per byte of device memory."""
        return self.useful_flops / self.unique_bytes


_EXPONENTIALS_PER_CLOCK = 16
"""Exponentials per clock of a multiprocessor: 4 units in each quarter; source: CUDA programming guide."""
_CACHE_BYTES_PER_CLOCK = 36
"""Bytes per clock that a multiprocessor reads from L2; fitted."""
_LATENCY_CLOCKS = 1300
"""Clocks from request to arrival of data, for one stage of loads; more stages request earlier. Fitted."""
_ITERATION_CLOCKS = 150
"""Clocks of barriers and reductions between warps in one iteration; fitted."""
_REACHED = 0.76
"""Fraction of the tensor cores' peak in a loop of dependent products; fitted."""
_INSTRUCTIONS = 1.75
"""Instructions for each fp32 operation that `Work` counts, including addresses, masks and moves; fitted."""
_SECOND_HALF = 0.65
"""Fraction of its work that a block of eight warps overlaps with that of its other half; fitted."""
_SHARPNESS = 2.56
"""Exponent of the power mean of a block's waiting time and the busiest unit's time; infinite would be the maximum."""
LAUNCH_US = 2.0
"""Microseconds of a launch after another kernel in a CUDA graph."""
_BANDWIDTH = 0.85
"""Fraction of the data sheet's bandwidth that a kernel reaches; fitted."""


def memory_us(moved_bytes: float, sm: int) -> float:
    """Return the microseconds to read or write `moved_bytes` on the reference board of `sm`."""
    return moved_bytes / (_sheet(sm).bandwidth_gb_s * 1e3 * _BANDWIDTH)


def best_case_us(work: Work, sm: int) -> float:
    """Return the microseconds of `work` if the busiest unit of every multiprocessor is always busy."""
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
    """Return the predicted microseconds on the reference board of the kernel's SM; infinite if it does not fit."""
    resident = occupancy(kernel).blocks
    if resident == 0:
        return float("inf")
    sheet = _sheet(kernel.sm)
    resident = min(resident, -(-work.blocks // sheet.multiprocessors))
    turn = _iteration_clocks(kernel, work, sheet, resident, stages)
    waves = -(-work.blocks // (sheet.multiprocessors * resident))
    compute_us = waves * work.steps * turn / (sheet.clock_ghz * 1e3)
    return LAUNCH_US + max(compute_us, memory_us(work.unique_bytes, kernel.sm))


def _sheet(sm: int) -> DataSheet:
    sheet = find_target(sm_row(sm).device).sheet
    assert sheet is not None
    return sheet


def _iteration_clocks(kernel: CompiledKernel, work: Work, sheet: DataSheet, resident: int, stages: int) -> float:
    """Return the clocks in which each of `resident` blocks on a multiprocessor runs one iteration of its loop."""
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
    waits = alone + _ITERATION_CLOCKS + _LATENCY_CLOCKS / stages
    return float(((resident * longest) ** _SHARPNESS + waits**_SHARPNESS) ** (1 / _SHARPNESS))
