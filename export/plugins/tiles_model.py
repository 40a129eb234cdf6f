"""What a choice of tiles would cost on a device, from the compiled kernel and data sheets: no measurement.

A block's loop over keys takes tensor cores, the exponential unit, plain arithmetic and cache bandwidth; blocks that
share a multiprocessor overlap these, a lone one does them in turn. The figures serve to rank tiles of one kernel on one
device; they are not a promise of latency.
"""

from dataclasses import dataclass

from internvl_edge.export.engine.targets import DataSheet, find_target
from internvl_edge.export.plugins.compile import CompiledKernel, nearest_known
from internvl_edge.export.plugins.occupancy import occupancy


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
    """Other fp32 operations per turn: scaling, masks, maxima, sums, the rescaled accumulator."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A device that stands for its SM; the counts are those of its data sheet."""

    target: str
    multiprocessors: int
    clock_ghz: float


BOARDS = {
    75: Board(target="t4", multiprocessors=40, clock_ghz=1.59),
    80: Board(target="a100", multiprocessors=108, clock_ghz=1.41),
    86: Board(target="a10", multiprocessors=72, clock_ghz=1.695),
    87: Board(target="agx-orin-64gb", multiprocessors=16, clock_ghz=1.3),
    89: Board(target="l4", multiprocessors=58, clock_ghz=2.04),
    90: Board(target="h100", multiprocessors=132, clock_ghz=1.83),
    100: Board(target="b200", multiprocessors=148, clock_ghz=1.85),
    103: Board(target="b200", multiprocessors=148, clock_ghz=1.85),
    110: Board(target="agx-thor", multiprocessors=20, clock_ghz=1.575),
    120: Board(target="rtx-5090", multiprocessors=170, clock_ghz=2.41),
    121: Board(target="dgx-spark", multiprocessors=48, clock_ghz=2.42),
}

_EXPONENTIALS_PER_CLOCK = 16
"""Per multiprocessor: four special function units in each quarter; CUDA programming guide, arithmetic throughput."""
_LANES = 128
"""fp32 operations per clock and multiprocessor; 64 on Turing and A100."""
_NARROW = (75, 80)
_CACHE_BYTES_PER_CLOCK = 24
"""Read from L2 per multiprocessor; about what A100 and H100 reach when all ask at once."""
_LATENCY_CLOCKS = 800
"""From asking memory to having, when nothing hides it."""
_WARPS_TO_OVERLAP = 8
"""Two for each quarter: one waits for tensor cores while the other computes exponentials."""
_MMA_SHARE = {90: 0.6, 100: 0.25, 103: 0.25, 110: 0.25}
"""Of the tensor peak that the old instruction ``mma.sync`` reaches where a newer one exists."""
_REACHED = 0.7
"""Of the tensor peak within a loop of dependent products, a common figure of fused attention."""


def predicted_us(kernel: CompiledKernel, work: Work, stages: int) -> float:
    """Return microseconds on the board that stands for the kernel's SM; infinite if it does not fit."""
    board, resident = BOARDS[nearest_known(kernel.sm)], occupancy(kernel).blocks
    if resident == 0:
        return float("inf")
    sheet = find_target(board.target).sheet
    assert sheet is not None
    resident = min(resident, -(-work.blocks // board.multiprocessors))
    turn = _turn_clocks(kernel, work, sheet, board, resident, stages)
    waves = -(-work.blocks // (board.multiprocessors * resident))
    compute_us = waves * resident * work.steps * turn / (board.clock_ghz * 1e3)
    return max(compute_us, work.unique_bytes / (sheet.bandwidth_gb_s * 1e3))


def _turn_clocks(
    kernel: CompiledKernel, work: Work, sheet: DataSheet, board: Board, resident: int, stages: int
) -> float:
    """Return clocks per turn of one block's loop, of `resident` blocks that share the multiprocessor."""
    lanes = _LANES // 2 if kernel.sm in _NARROW else _LANES
    lone_mma = kernel.tensor_cores == "mma"
    share = _REACHED * (_MMA_SHARE.get(kernel.sm, 1.0) if lone_mma else 1.0)
    peak = sheet.tflops.get(work.product_type, sheet.tflops["fp32"]) if kernel.tensor_cores else sheet.tflops["fp32"]
    flops_per_clock = peak * 1e3 / board.clock_ghz / board.multiprocessors * share
    parts = (
        work.step_flops / flops_per_clock,
        work.step_exponentials / _EXPONENTIALS_PER_CLOCK,
        (work.step_arithmetic + kernel.spill_bytes / 4 * kernel.threads) / lanes,
        work.step_bytes / _CACHE_BYTES_PER_CLOCK,
    )
    overlap = max(1.0, min(resident * kernel.warps / _WARPS_TO_OVERLAP, len(parts)))
    longest = max(parts)
    busy = longest + (sum(parts) - longest) / overlap
    covered = ((stages - 1) * resident + resident - 1) * busy  # loads asked turns ahead, and the neighbours' work
    return busy + max(0.0, _LATENCY_CLOCKS - covered) / resident
