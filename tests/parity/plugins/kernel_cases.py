"""What all kernels' cases share: types and codes, poisoned memory, the comparison with float64, and the timed pair."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from tests.tolerances import KERNEL_FP8_STEP, KERNEL_FP8_WEIGHTS_RELATIVE, KERNEL_RELATIVE

TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.int8, "fp8": torch.float8_e4m3fn}
LARGEST_CODE = {"int8": 127.0, "fp8": 448.0}
CODED = tuple(LARGEST_CODE)

Timed = tuple[Callable[[], object], Callable[[], object]]
"""Our launches, and torch's operators for the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelCase:
    """What a case of any kernel holds."""

    id: str
    batch: int = 1
    heads: int = 2
    type: str = "fp16"
    """Of the inputs."""
    out: str = "fp16"
    amplitude: float = 1.0
    """Standard deviation of q and k."""
    key_tile: int = 16
    warps: int = 4
    stages: int = 2
    large: bool = False
    """Of true size: for a GPU alone."""

    @property
    def wide(self) -> str:
        """Return the 16-bit type of the arithmetic."""
        return "fp16" if self.type in CODED else self.type


def coded(x: np.ndarray, type_: str, scale: float) -> torch.Tensor:
    """Return `x` in a type of `TYPES`: rounded half to even, 8-bit types as saturated codes of `scale`."""
    if type_ == "int8":
        return torch.tensor(np.clip(np.rint(x / scale), -128, 127)).to(torch.int8)
    if type_ == "fp8":
        return torch.tensor(np.clip(x / scale, -448, 448)).to(torch.float8_e4m3fn)
    return torch.tensor(x).to(TYPES[type_])


def poison(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> torch.Tensor:
    """Return NaN, or 101 where the type has none."""
    value = 101 if dtype == torch.int8 else float("nan")
    return torch.full(shape, value, dtype=torch.float32).to(dtype).to(device)


def saturated(want: np.ndarray, out: str, scale: float) -> np.ndarray:
    """Return what the codes of `out` can hold of `want`; itself where `out` has 16 bits."""
    if out not in CODED:
        return want
    largest = LARGEST_CODE[out] * scale
    return np.clip(want, -largest - (scale if out == "int8" else 0.0), largest)


def largest_share(case: KernelCase, got: torch.Tensor, want: np.ndarray, scale: float, *, fp8_weights: bool) -> float:
    """Return the largest error of `got` as a share of its bound; `fp8_weights` were rounded to FP8, which widens it.

    Raises:
        AssertionError: the bound is passed, or an element is NaN or was not written.
    """
    found = got.cpu().double().numpy() * (scale if case.out in CODED else 1.0)
    assert not np.isnan(found).any(), f"{case.id}: {np.isnan(found).sum()} elements are NaN or were not written"
    relative = KERNEL_RELATIVE[case.wide] + (KERNEL_FP8_WEIGHTS_RELATIVE if fp8_weights else 0.0)
    allowed = np.full(want.shape, relative * max(np.abs(want).max(), 1e-3))
    want = saturated(want, case.out, scale)
    if case.out == "int8":
        allowed += 0.5 * scale
    if case.out == "fp8":
        allowed += KERNEL_FP8_STEP * np.abs(want) + 2.0**-10 * scale
    share = np.abs(found - want) / allowed
    worst = np.unravel_index(share.argmax(), share.shape)
    assert share.max() <= 1, (
        f"{case.id}: {found[worst]} at {worst}, expected {want[worst]}; {share.max():.2f} of the bound"
    )
    return float(share.max())
