"""Corrects two faults of Triton's interpreter, which the compiler does not share.

Up to Triton 3.8 its float conversions cut bf16 off instead of rounding, and lose the carry where an FP8 mantissa rounds
up to the next power of two; its dot product multiplies the bits of bf16 numbers as integers.
"""

from functools import partial
from typing import Any

import numpy as np
import torch


def correct() -> None:
    """Replace the faulty functions of the interpreter; a second call changes nothing."""
    from triton.runtime import interpreter

    builder: Any = interpreter.InterpreterBuilder
    if getattr(builder.create_dot, "func", None) is not _dot:
        builder.create_dot = _Method(_dot, builder.create_dot)
        interpreter._convert_float = _convert


class _Method:
    """A function that knows the one it stands for, bound to a builder when called."""

    def __init__(self, func: Any, original: Any) -> None:
        self.func, self.original = func, original

    def __get__(self, instance: Any, owner: Any) -> Any:
        return self if instance is None else partial(self.func, self.original, instance)


def _dot(original: Any, builder: Any, a: Any, b: Any, d: Any, *rest: Any) -> Any:
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    a, b = (
        TensorHandle(_convert(x.data, tl.bfloat16, tl.float32, None).view(np.float32), tl.float32)
        if x.dtype.scalar == tl.bfloat16
        else x
        for x in (a, b)
    )
    return original(builder, a, b, d, *rest)


def _convert(values: np.ndarray, source: Any, target: Any, rounding_mode: Any) -> np.ndarray:
    """Return the bits of `values` in the target's type, rounded half to even, as unsigned integers."""
    types = {
        "fp8e4nv": torch.float8_e4m3fn, "fp8e5": torch.float8_e5m2, "fp16": torch.float16, "bf16": torch.bfloat16,
        "fp32": torch.float32, "fp64": torch.float64,
    }  # fmt: skip
    signed = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    size = source.primitive_bitwidth // 8
    plain = torch.from_numpy(np.ascontiguousarray(values).view(f"i{size}").copy())
    wide = plain.view(types[source.name]).to(types[target.name])
    bits = wide.view(signed[target.primitive_bitwidth // 8]).numpy()
    return bits.view(f"u{target.primitive_bitwidth // 8}").reshape(np.shape(values))
