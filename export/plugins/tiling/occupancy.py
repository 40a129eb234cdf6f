"""Compute how many blocks of a kernel fit on one multiprocessor, from the limits of its compute capability."""

from dataclasses import dataclass

from internvl_edge.export.plugins.compile_kernel import CompiledKernel
from internvl_edge.runtime.targets.sms import sm_row

_REGISTERS = 65536
"""Registers of a multiprocessor, in all compute capabilities here."""
_REGISTERS_UNIT = 256
"""Unit to which the registers of a warp are rounded up."""
_PARTITIONS = 4
"""Partitions of a multiprocessor, each with a quarter of the registers; a warp runs in one of them."""
TENSOR_MEMORY_COLUMNS = 512
"""Columns of tensor memory of a multiprocessor with tcgen05; source: PTX manual, "Tensor Memory"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupancy:
    """Blocks and warps of a kernel that fit on one multiprocessor."""

    blocks: int
    warps: int
    most_warps: int
    bound: str
    """Limit that is reached first: ``warps``, ``blocks``, ``registers``, ``shared memory`` or ``tensor memory``."""

    @property
    def fraction(self) -> float:
        """Fraction of the largest number of warps that is resident."""
        return self.warps / self.most_warps


def fits(kernel: CompiledKernel) -> bool:
    """Return whether the shared memory of one block fits on the device."""
    return kernel.shared_bytes <= sm_row(kernel.sm).block_shared_kib << 10


def occupancy(kernel: CompiledKernel) -> Occupancy:
    """Return how many blocks of `kernel` fit on one multiprocessor; none if a single one does not."""
    limits = sm_row(kernel.sm)
    shared = _up(kernel.shared_bytes + limits.reserved_bytes, limits.shared_unit)
    per_warp = _up(kernel.registers * 32, _REGISTERS_UNIT)
    warps_by_registers = _REGISTERS // _PARTITIONS // per_warp * _PARTITIONS if per_warp else limits.warps
    rooms = {
        "warps": limits.warps // kernel.warps,
        "blocks": limits.blocks,
        "registers": warps_by_registers // kernel.warps,
        "shared memory": (limits.shared_kib << 10) // shared if shared else limits.blocks,
    }
    if kernel.tensor_memory_columns:
        rooms["tensor memory"] = TENSOR_MEMORY_COLUMNS // kernel.tensor_memory_columns
    blocks = min(rooms.values()) if fits(kernel) else 0
    bound = min(rooms, key=rooms.__getitem__) if fits(kernel) else "shared memory"
    return Occupancy(blocks=blocks, warps=blocks * kernel.warps, most_warps=limits.warps, bound=bound)


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
