"""How many blocks of a kernel fit on one multiprocessor, from the limits of its compute capability.

Source: blocks, shared memory of a multiprocessor, and the units in which registers and shared memory are handed out are
those of ``cuda_occupancy.h`` in CUDA 13.5, for every compute capability here; warps and the shared memory of one block
are of the CUDA C++ Programming Guide, "Compute Capabilities", technical specifications per compute capability.
"""

from dataclasses import dataclass

from internvl_edge.export.plugins.compile import CompiledKernel, nearest_known

_REGISTERS = 65536
"""Per multiprocessor, of all compute capabilities here."""
_REGISTERS_UNIT = 256
"""A warp's registers are rounded up to it."""
_SHARED_UNIT = 128
"""A block's shared memory is rounded up to it, in bytes; 256 on Turing."""
_PARTITIONS = 4
"""A multiprocessor is four quarters with a fourth of the registers each; a warp stays in one."""
TENSOR_MEMORY_COLUMNS = 512
"""Of a multiprocessor with tcgen05; PTX manual, "Tensor Memory"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one multiprocessor has."""

    warps: int
    blocks: int
    shared_kib: int
    """For all blocks together."""
    block_shared_kib: int
    """For one block that asks for it."""
    reserved_bytes: int = 1024
    """Of shared memory for the system, per block; none on Turing."""


LIMITS = {
    75: Limits(warps=32, blocks=16, shared_kib=64, block_shared_kib=64, reserved_bytes=0),
    80: Limits(warps=64, blocks=32, shared_kib=164, block_shared_kib=163),
    86: Limits(warps=48, blocks=16, shared_kib=100, block_shared_kib=99),
    87: Limits(warps=48, blocks=16, shared_kib=164, block_shared_kib=163),
    89: Limits(warps=48, blocks=24, shared_kib=100, block_shared_kib=99),
    90: Limits(warps=64, blocks=32, shared_kib=228, block_shared_kib=227),
    100: Limits(warps=64, blocks=32, shared_kib=228, block_shared_kib=227),
    103: Limits(warps=64, blocks=32, shared_kib=228, block_shared_kib=227),
    110: Limits(warps=48, blocks=24, shared_kib=228, block_shared_kib=227),
    120: Limits(warps=48, blocks=24, shared_kib=100, block_shared_kib=99),
    121: Limits(warps=48, blocks=24, shared_kib=100, block_shared_kib=99),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupancy:
    """What of a multiprocessor a kernel can fill."""

    blocks: int
    warps: int
    most_warps: int
    bound: str
    """What runs out first: ``warps``, ``blocks``, ``registers``, ``shared memory``, ``tensor memory``."""

    @property
    def fraction(self) -> float:
        """Return resident warps by the most that there can be."""
        return self.warps / self.most_warps


def limits_of(sm: int) -> Limits:
    """Return the limits of `sm`, or of the nearest lower one that is known."""
    return LIMITS[nearest_known(sm)]


def fits(kernel: CompiledKernel) -> bool:
    """Return whether one block finds its shared memory on the device."""
    return kernel.shared_bytes <= limits_of(kernel.sm).block_shared_kib << 10


def occupancy(kernel: CompiledKernel) -> Occupancy:
    """Return how many blocks of `kernel` one multiprocessor holds; none if a single one does not fit."""
    limits = limits_of(kernel.sm)
    unit = 2 * _SHARED_UNIT if kernel.sm == 75 else _SHARED_UNIT
    shared = _up(kernel.shared_bytes + limits.reserved_bytes, unit)
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
