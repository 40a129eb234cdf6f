"""What a row of the table of devices holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from internvl_edge.runtime.targets.sms import FIRST_BF16_SM, FIRST_FP8_SM, FIRST_SMS, RTX_SMS


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSheet:
    """What the vendor says of a device: peaks, for a roofline; no measured figure."""

    memory_gib: float
    """As printed on the sheet ("24 GB"): memory chips count in binary."""
    bandwidth_gb_s: float
    """10^9 bytes per second."""
    multiprocessors: int
    clock_ghz: float
    """10^9 clocks of a multiprocessor per second."""
    tflops: Mapping[str, float] = field(hash=False)
    """Dense 10^12 operations per second: fp32 (not TF32), fp16, bf16, fp8, int8; an absent key has no tensor unit."""
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A device to build for; a bare ``sm_89`` has no data sheet."""

    name: str
    sm: int
    sheet: DataSheet | None = None
    driver_name: str = ""
    """A pattern for the whole name that the device's driver gives: an "RTX 4090 Laptop GPU" or an "A100-PCIE-40GB" has
    another sheet. Jetsons have none: their driver says "Orin" for modules of several sheets."""

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

    def has(self, need: str) -> bool:
        """Return whether it has what a type of tensors needs, as ``FP8``; "" is needed of none."""
        return self.sm >= FIRST_SMS[need]
