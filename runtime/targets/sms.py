"""Table of the compute capabilities (SMs) that TensorRT 10.3 to 11 runs on.

All facts about an SM are in its row; facts about a device are in `devices`. Sources: blocks, shared memory of a
multiprocessor, and the units in which registers and shared memory are allocated are from ``cuda_occupancy.h`` in
CUDA 13.5; warps and the shared memory of one block are from the CUDA C++ Programming Guide, "Compute Capabilities",
technical specifications per compute capability.
"""

from dataclasses import dataclass

from internvl_edge.runtime.errors import EngineError

_RTX = "TensorRT-RTX, TensorRT 10.3+"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sm:
    """Facts about one compute capability."""

    sm: int
    tensorrt: str
    """TensorRT for it, in words: the first that supports it fully by the release notes, or the one of its JetPack."""
    rtx: bool
    """Whether TensorRT-RTX builds for it ahead of time on any machine, as a member of its ComputeCapability."""
    bf16: bool = True
    """Whether its tensor cores multiply bf16. Turing's multiply only fp16 and integers."""
    fp8: bool = True
    """Whether its tensor cores multiply FP8. TensorRT refuses FP8 on others."""

    warps: int
    """Most warps that are resident on one multiprocessor."""
    blocks: int
    """Most blocks that are resident on one multiprocessor."""
    shared_kib: int
    """Shared memory of a multiprocessor for all its blocks, in KiB."""
    block_shared_kib: int
    """Most shared memory of one block, in KiB."""
    reserved_bytes: int = 1024
    """Shared memory that the system reserves for each block, in bytes."""
    shared_unit: int = 128
    """Unit to which the shared memory of a block is rounded up, in bytes."""
    fp32_units: int = 128
    """Number of fp32 operations per clock and multiprocessor."""

    ptx_version: int
    """Lowest PTX version that Triton's LLVM writes for it: 80 is CUDA 12.0, 86 12.7, 87 12.8, 88 12.9, 90 13.0."""
    fp8_ptx_version: int = 0
    """Lowest PTX version for products of FP8 where that is later; 0 otherwise."""
    tensor_core_code: bool = True
    """Whether Triton emits tensor-core code for it."""
    tiles_like: int
    """SM with nearly the same code, which is compiled instead when tiles are ranked."""
    mma_share: float = 1.0
    """Share of the tensor peak that the old instruction ``mma.sync`` reaches, which is below 1 where a newer one
    exists."""
    device: str
    """Name of the device in `devices` that represents it in predictions."""


SMS = (
    Sm(
        sm=75,
        tensorrt=_RTX,
        rtx=True,
        bf16=False,
        fp8=False,
        warps=32,
        blocks=16,
        shared_kib=64,
        block_shared_kib=64,
        reserved_bytes=0,
        shared_unit=256,
        fp32_units=64,
        ptx_version=80,
        tensor_core_code=False,
        tiles_like=86,
        device="t4",
    ),
    Sm(
        sm=80,
        tensorrt=_RTX,
        rtx=True,
        fp8=False,
        warps=64,
        blocks=32,
        shared_kib=164,
        block_shared_kib=163,
        fp32_units=64,
        ptx_version=80,
        tiles_like=86,
        device="a100",
    ),
    Sm(
        sm=86,
        tensorrt=_RTX,
        rtx=True,
        fp8=False,
        warps=48,
        blocks=16,
        shared_kib=100,
        block_shared_kib=99,
        ptx_version=80,
        tiles_like=86,
        device="a10",
    ),
    Sm(
        sm=87,
        tensorrt="TensorRT 10.3 (JetPack 6.2)",
        rtx=False,
        fp8=False,
        warps=48,
        blocks=16,
        shared_kib=164,
        block_shared_kib=163,
        ptx_version=80,
        tiles_like=86,
        device="agx-orin-64gb",
    ),
    Sm(
        sm=89,
        tensorrt=_RTX,
        rtx=True,
        warps=48,
        blocks=24,
        shared_kib=100,
        block_shared_kib=99,
        ptx_version=80,
        fp8_ptx_version=84,  # the PTX manual: ``mma`` with ``.e4m3`` since 8.4 (CUDA 12.4)
        tiles_like=86,
        device="l4",
    ),
    Sm(
        sm=90,
        tensorrt="TensorRT 10.3+",
        rtx=False,
        warps=64,
        blocks=32,
        shared_kib=228,
        block_shared_kib=227,
        ptx_version=80,
        tiles_like=90,
        mma_share=0.6,
        device="h100",
    ),
    Sm(
        sm=100,
        tensorrt="TensorRT 10.8+",
        rtx=False,
        warps=64,
        blocks=32,
        shared_kib=228,
        block_shared_kib=227,
        ptx_version=86,
        tiles_like=100,
        mma_share=0.25,
        device="b200",
    ),
    Sm(
        sm=103,
        tensorrt="TensorRT 10.14+",
        rtx=False,
        warps=64,
        blocks=32,
        shared_kib=228,
        block_shared_kib=227,
        ptx_version=88,
        tiles_like=100,
        mma_share=0.25,
        device="b200",
    ),
    Sm(
        sm=110,
        tensorrt="TensorRT 10.13 (JetPack 7)",
        rtx=False,
        warps=48,
        blocks=24,
        shared_kib=228,
        block_shared_kib=227,
        ptx_version=90,
        tiles_like=100,
        mma_share=0.25,
        device="agx-thor",
    ),
    Sm(
        sm=120,
        tensorrt="TensorRT-RTX, TensorRT 10.8+",
        rtx=True,
        warps=48,
        blocks=24,
        shared_kib=100,
        block_shared_kib=99,
        ptx_version=87,
        tiles_like=120,
        device="rtx-5090",
    ),
    Sm(
        sm=121,
        tensorrt="TensorRT-RTX, TensorRT 10.14+",
        rtx=True,
        warps=48,
        blocks=24,
        shared_kib=100,
        block_shared_kib=99,
        ptx_version=88,
        tiles_like=120,
        device="dgx-spark",
    ),
)
"""Rows in ascending order. A newer SM supports everything that an older one does."""

RTX_SMS = tuple(row.sm for row in SMS if row.rtx)
FIRST_BF16_SM = min(row.sm for row in SMS if row.bf16)
FIRST_FP8_SM = min(row.sm for row in SMS if row.fp8)
FIRST_SMS = {"": 0, "bf16": FIRST_BF16_SM, "FP8": FIRST_FP8_SM}
"""First SM that fulfils each requirement of a tensor type."""
FIRST_TENSOR_CORE_SM = min(row.sm for row in SMS if row.tensor_core_code)


def sm_row(sm: int) -> Sm:
    """Return the row of `sm`, or of the next lower one that has a row.

    Raises:
        EngineError: no lower one has a row.
    """
    known = [row for row in SMS if row.sm <= sm]
    if not known:
        raise EngineError(f"sm_{sm}: no kernel can be compiled for it; sm_{SMS[0].sm} and newer are supported")
    return known[-1]
