"""Quantized codes, fake quantization and scales in torch, as Q/DQ nodes compute them.

The formats are those of `runtime.numbers.formats`.
"""

import math

import torch
from torch import Tensor

from internvl_edge.runtime.numbers.formats import Format, Granularity

SMALLEST_NORMAL = {"float32": 1.2e-38, "float16": 6.2e-5, "bfloat16": 1.2e-38}
"""Smallest normal number of each type that a scale is stored in; a subnormal scale would lose digits."""


def encode(x: Tensor, scale: Tensor, form: Format) -> Tensor:
    """Return the codes of `x`, from minus to plus the largest code; `scale` broadcasts against `x`.

    Integer codes are int8, also where several share a byte in storage; floating-point codes have the format's own type.
    """
    scaled = x / scale
    if form.mantissa_bits is None:
        scaled = scaled.round_()
    return scaled.clamp_(-form.largest, form.largest).to(_code_dtype(form))


def fake_quantize(x: Tensor, scale: Tensor, form: Format) -> Tensor:
    """Return what QuantizeLinear and DequantizeLinear make of `x`, in fp32.

    Integers saturate at the lowest code, which is one below minus the largest, as ONNX defines it.
    """
    scaled = x / scale
    if form.mantissa_bits is None:
        return scaled.round_().clamp_(form.lowest, form.largest).mul_(scale)
    return scaled.clamp_(form.lowest, form.largest).to(_code_dtype(form)).float().mul_(scale)


def amax_of(x: Tensor, granularity: Granularity) -> Tensor:
    """Return the largest magnitude of the values that share a scale, in the shape of the scale.

    Raises:
        ValueError: blocks do not fill their axis.
    """
    shape = granularity.scale_shape(x.shape)
    if granularity.axis is None:
        return x.abs().amax()
    if granularity.block is None:
        return x.abs().transpose(0, granularity.axis).flatten(1).amax(dim=1)
    count = shape[granularity.axis]
    blocks = (*shape[: granularity.axis], count, granularity.block, *shape[granularity.axis + 1 :])
    return x.abs().reshape(blocks).amax(dim=granularity.axis + 1)


def broadcast_scale(scale: Tensor, granularity: Granularity, ndim: int) -> Tensor:
    """Return `scale` in a shape that broadcasts against its tensor, which has `ndim` axes."""
    if granularity.axis is None:
        return scale
    if granularity.block is None:
        return scale.reshape([-1 if axis == granularity.axis else 1 for axis in range(ndim)])
    return scale.repeat_interleave(granularity.block, dim=granularity.axis)


def scale_of(amax: Tensor, form: Format, dtype: str) -> Tensor:
    """Return the scale that maps `amax` to the largest code, rounded to the graph's type `dtype`, in fp32."""
    scale = (amax.float() / form.largest).clamp(min=SMALLEST_NORMAL[dtype])
    return scale.to(getattr(torch, dtype)).float()


def sqnr_db(reference: Tensor, found: Tensor) -> float:
    """Return the signal-to-quantization-noise ratio ``10 log10(sum r^2 / sum (r - f)^2)`` in dB.

    It is 200 if nothing differs, and -200 if a value is not finite.
    """
    signal = float(reference.double().square().sum())
    noise = float((reference.double() - found.double()).square().sum())
    if noise == 0:
        return 200.0
    return ratio_db(signal, noise) if math.isfinite(noise) else -200.0


def ratio_db(signal: float, noise: float) -> float:
    """Return ``10 log10(signal / noise)`` in dB, limited to -200 to 200."""
    ratio = torch.tensor(max(signal, 1e-300) / max(noise, 1e-300), dtype=torch.float64)
    return float((10 * ratio.log10()).clamp(-200, 200))


def _code_dtype(form: Format) -> torch.dtype:
    found: torch.dtype = torch.int8 if form.mantissa_bits is None else getattr(torch, form.type.torch)
    return found
