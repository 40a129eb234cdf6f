"""Devices by name: compute capability, data sheet, and which precisions the hardware has."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from internvl_edge.runtime.errors import EngineError

RTX_SMS = (75, 80, 86, 89, 120, 121)
"""What TensorRT-RTX builds for ahead of time, on any machine; the members of its ComputeCapability."""

FIRST_FP8_SM = 89
"""Ada; no unit below multiplies FP8, and TensorRT refuses it there."""

FIRST_BF16_SM = 80
"""Ampere; Turing's tensor cores have fp16 and integers only."""

_KNOWN_SMS = (75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121)
"""What TensorRT 10.3 to 11 runs on; 87 is Orin, 110 Thor, both built on the device itself."""

_BARE = re.compile(r"^sm_?(\d+)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSheet:
    """What the vendor says of a device: peaks, for a roofline; no measured figure."""

    memory_gib: float
    """As printed on the sheet ("24 GB"): memory chips count in binary."""
    bandwidth_gb_s: float
    """10^9 bytes per second."""
    tflops: Mapping[str, float] = field(hash=False)
    """Dense 10^12 operations per second: fp32 (not TF32), fp16, bf16, fp8, int8; an absent key has no tensor unit."""
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A device to build for; a bare ``sm_89`` has no data sheet."""

    name: str
    sm: int
    sheet: DataSheet | None = None

    @property
    def rtx(self) -> bool:
        """Whether TensorRT-RTX builds plans for it ahead of time, without the device."""
        return self.sm in RTX_SMS

    @property
    def fp8(self) -> bool:
        """Whether it multiplies FP8."""
        return self.sm >= FIRST_FP8_SM

    @property
    def bf16(self) -> bool:
        """Whether it multiplies bf16."""
        return self.sm >= FIRST_BF16_SM


def find_target(name: str) -> Target:
    """Return the target called `name`, or a bare ``sm_89``.

    Raises:
        EngineError: the name is unknown.
    """
    wanted = name.lower()
    for target in TARGETS:
        if target.name == wanted:
            return target
    if match := _BARE.match(wanted):
        return _bare(name, int(match[1]))
    known = [target.name for target in TARGETS]
    near = [n for n in known if wanted in n] or difflib.get_close_matches(wanted, known, n=3) or known
    raise EngineError(f"--target {name}: unknown device; did you mean {', '.join(near)}?")


def require_precision(target: Target, precision: str | None) -> None:
    """Refuse a precision that the device has no units for.

    Raises:
        EngineError: naming the devices that have them.
    """
    if precision == "fp8" and not target.fp8:
        able = ", ".join(other.name for other in TARGETS if other.fp8)
        raise EngineError(f"--precision fp8 --target {target.name}: sm_{target.sm} has no FP8; {able} have; use int8")
    if precision == "bf16" and not target.bf16:
        able = ", ".join(other.name for other in TARGETS if other.bf16)
        raise EngineError(f"--dtype bf16 --target {target.name}: sm_{target.sm} has no bf16; {able} have; use fp16")


def _bare(name: str, sm: int) -> Target:
    if sm not in _KNOWN_SMS:
        known = ", ".join(f"sm_{known}" for known in _KNOWN_SMS)
        raise EngineError(f"--target {name}: unknown compute capability; TensorRT 10.3 and later know {known}")
    return Target(name=f"sm_{sm}", sm=sm)


def _target(name: str, sm: int, *, memory_gib: float, bandwidth_gb_s: float, source: str, **tflops: float) -> Target:
    sheet = DataSheet(memory_gib=memory_gib, bandwidth_gb_s=bandwidth_gb_s, tflops=tflops, source=source)
    return Target(name=name, sm=sm, sheet=sheet)


# Vendors like to print the rate with 2:4 structured sparsity, which no graph here uses: those are halved, and the
# source says so. GeForce halves products of fp16, bf16 and fp8 that accumulate in fp32, as ours do: that rate is taken.
# Figures were checked against texts that quote the document named; "from memory" marks those found in no text at hand.
TARGETS = (
    _target(
        "orin-nano-8gb",
        87,
        memory_gib=8,
        bandwidth_gb_s=102.4,
        fp32=2.1,
        fp16=16.7,
        bf16=16.7,
        int8=33.4,
        source="Jetson Orin Nano Super Developer Kit data sheet: 67 sparse INT8 TOPS, halved; MAXN_SUPER, 1.02 GHz; "
        "fp16 and bf16 half of int8, fp32 from cores and clock",
    ),
    _target(
        "orin-nx-16gb",
        87,
        memory_gib=16,
        bandwidth_gb_s=102.4,
        fp32=2.4,
        fp16=19.2,
        bf16=19.2,
        int8=38.4,
        source="Jetson Orin NX Series data sheet: 157 sparse INT8 TOPS, of which the GPU has 77, halved, and the DLAs "
        "the rest; MAXN_SUPER, 1.173 GHz; from memory, the GPU's part agrees with 4096 operations per SM and clock",
    ),
    _target(
        "agx-orin-64gb",
        87,
        memory_gib=64,
        bandwidth_gb_s=204.8,
        fp32=5.3,
        fp16=42.5,
        bf16=42.5,
        int8=85,
        source="Jetson AGX Orin Series Technical Brief: 170 sparse INT8 TOPS of the GPU alone, halved; MAXN; "
        "fp16 and bf16 half of int8",
    ),
    _target(
        "agx-thor",
        110,
        memory_gib=128,
        bandwidth_gb_s=273,
        fp32=8.1,
        fp16=258,
        bf16=258,
        fp8=517,
        int8=517,
        source="Jetson Thor Series Modules data sheet (T5000): 2070 sparse FP4 TFLOPS, halved per step of precision "
        "and for sparsity; fp32 from cores and clock; the FP4 figure confirmed, the rest from memory",
    ),
    _target(
        "t4",
        75,
        memory_gib=16,
        bandwidth_gb_s=320,
        fp32=8.1,
        fp16=65,
        int8=130,
        source="NVIDIA T4 Tensor Core GPU data sheet",
    ),
    _target(
        "a100",
        80,
        memory_gib=80,
        bandwidth_gb_s=2039,
        fp32=19.5,
        fp16=312,
        bf16=312,
        int8=624,
        source="NVIDIA A100 Tensor Core GPU data sheet, 80 GB SXM (PCIe: 1935 GB/s; 40 GB: 1555 GB/s)",
    ),
    _target(
        "a10",
        86,
        memory_gib=24,
        bandwidth_gb_s=600,
        fp32=31.2,
        fp16=125,
        bf16=125,
        int8=250,
        source="NVIDIA A10 Tensor Core GPU data sheet, dense figures; tensor rates from memory",
    ),
    _target(
        "rtx-3090",
        86,
        memory_gib=24,
        bandwidth_gb_s=936,
        fp32=35.6,
        fp16=71,
        bf16=71,
        int8=284,
        source="NVIDIA Ampere GA102 GPU Architecture, appendix A, dense, fp32 accumulation; tensor rates from memory",
    ),
    _target(
        "l4",
        89,
        memory_gib=24,
        bandwidth_gb_s=300,
        fp32=30.3,
        fp16=121,
        bf16=121,
        fp8=242,
        int8=242,
        source="NVIDIA L4 Tensor Core GPU data sheet: 242 (fp16) and 485 (fp8, int8) with sparsity, halved",
    ),
    _target(
        "l40s",
        89,
        memory_gib=48,
        bandwidth_gb_s=864,
        fp32=91.6,
        fp16=362,
        bf16=362,
        fp8=733,
        int8=733,
        source="NVIDIA L40S GPU data sheet, dense figures",
    ),
    _target(
        "rtx-4090",
        89,
        memory_gib=24,
        bandwidth_gb_s=1008,
        fp32=82.6,
        fp16=165.2,
        bf16=165.2,
        fp8=330.3,
        int8=660.6,
        source="NVIDIA Ada GPU Architecture, appendix A, dense, fp32 accumulation",
    ),
    _target(
        "h100",
        90,
        memory_gib=80,
        bandwidth_gb_s=3350,
        fp32=67,
        fp16=989,
        bf16=989,
        fp8=1979,
        int8=1979,
        source="NVIDIA H100 Tensor Core GPU data sheet, SXM: sparse figures halved (PCIe: 2000 GB/s, slower)",
    ),
    _target(
        "h200",
        90,
        memory_gib=141,
        bandwidth_gb_s=4800,
        fp32=67,
        fp16=989,
        bf16=989,
        fp8=1979,
        int8=1979,
        source="NVIDIA H200 Tensor Core GPU data sheet, SXM: sparse figures halved",
    ),
    _target(
        "gh200",
        90,
        memory_gib=96,
        bandwidth_gb_s=4000,
        fp32=67,
        fp16=989,
        bf16=989,
        fp8=1979,
        int8=1979,
        source="NVIDIA GH200 Grace Hopper Superchip data sheet, 96 GB HBM3: sparse figures halved "
        "(144 GB HBM3e: 4900 GB/s); rates are those of the H100 SXM, from memory",
    ),
    _target(
        "b200",
        100,
        memory_gib=180,
        bandwidth_gb_s=8000,
        fp32=80,
        fp16=2250,
        bf16=2250,
        fp8=4500,
        int8=4500,
        source="NVIDIA Blackwell Architecture Technical Brief, HGX B200 at 1000 W, dense figures; memory as systems "
        "report it (the brief has 192 GB)",
    ),
    _target(
        "rtx-5090",
        120,
        memory_gib=32,
        bandwidth_gb_s=1792,
        fp32=104.8,
        fp16=209.5,
        bf16=209.5,
        fp8=419,
        int8=838,
        source="NVIDIA RTX Blackwell GPU Architecture, appendix A, dense, fp32 accumulation; tensor rates from memory",
    ),
    _target(
        "dgx-spark",
        121,
        memory_gib=128,
        bandwidth_gb_s=273,
        fp32=31,
        fp16=125,
        bf16=125,
        fp8=250,
        int8=250,
        source="NVIDIA DGX Spark data sheet: 1 PFLOP sparse FP4, halved per step of precision and for sparsity, which "
        "no sheet confirms; less if fp32 accumulation is halved as on GeForce",
    ),
)
