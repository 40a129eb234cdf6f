"""The fields of a row of the table of devices."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from internvl_edge.runtime.targets.sms import FIRST_BF16_SM, FIRST_FP8_SM, FIRST_SMS, RTX_SMS


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSheet:
    """Peak figures of a device from its vendor, for a roofline; none is measured."""

    memory_gib: float
    """Memory in GiB. The sheet prints "24 GB", but memory chips count in binary."""
    bandwidth_gb_s: float
    """Memory bandwidth in 10^9 bytes per second."""
    multiprocessors: int
    clock_ghz: float
    """Clock of the multiprocessors in GHz."""
    tflops: Mapping[str, float] = field(hash=False)
    """Dense 10^12 operations per second by type: fp32 (not TF32), fp16, bf16, fp8, int8. Types without tensor units are
    absent."""
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A device to build for. A bare SM such as ``sm_89`` has no data sheet."""

    name: str
    sm: int
    sheet: DataSheet | None = None
    driver_name: str = ""
    """Regular expression for the whole name that the driver reports, since an "RTX 4090 Laptop GPU" or an
    "A100-PCIE-40GB" has another sheet. Jetsons have none: their driver reports "Orin" for modules of several sheets."""

    @property
    def rtx(self) -> bool:
        """Return whether TensorRT-RTX builds plans for it ahead of time, without the device."""
        return self.sm in RTX_SMS

    @property
    def fp8(self) -> bool:
        """Return whether it multiplies FP8."""
        return self.sm >= FIRST_FP8_SM

    @property
    def bf16(self) -> bool:
        """Return whether it multiplies bf16."""
        return self.sm >= FIRST_BF16_SM

    def has(self, need: str) -> bool:
        """Return whether it supports `need`, the requirement of a tensor type, as ``FP8``; always true for ""."""
        return self.sm >= FIRST_SMS[need]
