"""The two 8-bit formats, as their Q/DQ nodes compute them: INT8 and FP8 E4M3, both symmetric."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

TINIEST = {"float32": 1.2e-38, "float16": 6.2e-5, "bfloat16": 1.2e-38}
"""Smallest normal number of each type a scale may be stored in: a subnormal scale loses the digits it is there for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """An 8-bit format; a value is ``code * scale``."""

    name: str
    largest: float
    """Magnitude of the largest code in use: a scale is amax / largest."""

    def codes(self, x: Tensor, scale: Tensor) -> Tensor:
        """Return `x` in this format: int8 of int8, float8_e4m3fn of fp8; `scale` broadcasts against `x`."""
        scaled = x / scale
        if self.name == "int8":
            return scaled.round_().clamp_(-self.largest, self.largest).to(torch.int8)
        return scaled.clamp_(-self.largest, self.largest).to(torch.float8_e4m3fn)

    def fake(self, x: Tensor, scale: Tensor) -> Tensor:
        """Return `x` as QuantizeLinear and DequantizeLinear give it back, in fp32; int8 saturates at -128."""
        scaled = x / scale
        if self.name == "int8":
            return scaled.round_().clamp_(-self.largest - 1, self.largest).mul_(scale)
        return scaled.clamp_(-self.largest, self.largest).to(torch.float8_e4m3fn).float().mul_(scale)


INT8 = Format(name="int8", largest=127.0)
"""-128 stays unused by weights, so that a code and its negative both exist."""
FP8 = Format(name="fp8", largest=448.0)
"""E4M3: 448 is the largest finite number; what exceeds it saturates."""
FORMATS = {"int8": INT8, "fp8": FP8}


def scale_of(amax: Tensor, form: Format, dtype: str) -> Tensor:
    """Return the scale that maps `amax` to the largest code, as a graph of type `dtype` can store it, in fp32."""
    scale = (amax.float() / form.largest).clamp(min=TINIEST[dtype])
    return scale.to(getattr(torch, dtype)).float()


def sqnr_db(reference: Tensor, found: Tensor) -> float:
    """Return the signal-to-quantization-noise ratio ``10 log10(sum r^2 / sum (r - f)^2)``.

    200 if nothing differs, -200 if a value is not finite.
    """
    signal = float(reference.double().square().sum())
    noise = float((reference.double() - found.double()).square().sum())
    if noise == 0:
        return 200.0
    return decibel(signal, noise) if math.isfinite(noise) else -200.0


def decibel(signal: float, noise: float) -> float:
    """Return ``10 log10(signal / noise)`` between -200 and 200."""
    ratio = torch.tensor(max(signal, 1e-300) / max(noise, 1e-300), dtype=torch.float64)
    return float((10 * ratio.log10()).clamp(-200, 200))
