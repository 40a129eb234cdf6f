"""The formats that values are quantized to, and the precisions that a bundle may have: one row for each.

A precision names the format of weights and that of activations apart, and either may be none. What else depends on it
(types, limits, scales, tolerances, what a device must have) is asked of the row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from internvl_edge.runtime.numbers import tensor_types as types
from internvl_edge.runtime.numbers.tensor_types import TensorType


@dataclass(frozen=True, slots=True)
class Granularity:
    """Which values of a tensor share one scale, as QuantizeLinear and DequantizeLinear have it."""

    axis: int | None = None
    """None: all. Else each index of this axis has a scale of its own."""
    block: int | None = None
    """With it, that many neighbours along `axis` share a scale, apart for each index of all other axes."""

    @property
    def attributes(self) -> dict[str, int]:
        """Return the attributes of the ONNX nodes."""
        found = {"axis": self.axis, "block_size": self.block}
        return {name: value for name, value in found.items() if value is not None}

    def scale_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the scale of a tensor.

        Raises:
            ValueError: blocks do not fill the axis.
        """
        if self.axis is None:
            return ()
        if self.block is None:
            return (shape[self.axis],)
        if shape[self.axis] % self.block:
            raise ValueError(f"axis {self.axis} of {list(shape)} is no multiple of blocks of {self.block}")
        return (*shape[: self.axis], shape[self.axis] // self.block, *shape[self.axis + 1 :])

    def __str__(self) -> str:
        """Return it in words."""
        if self.axis is None:
            return "per tensor"
        return "per channel" if self.block is None else f"per block of {self.block}"


PER_TENSOR = Granularity()
PER_ROW = Granularity(axis=0)
"""Each output channel of a weight ``[out, C]``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """Numbers of few bits; a value is ``code * scale``, and zero is code 0."""

    type: TensorType
    """Of a code."""
    largest: float
    """Magnitude of the largest code in use: a scale is amax / largest."""
    lowest: float
    """Where QuantizeLinear saturates below; there may be one code more than in use above."""
    mantissa_bits: int | None = None
    """Bits behind the point of a floating-point format; None of integers, which are equally wide everywhere."""
    smallest_exponent: int = 0
    """Of a normal number; smaller numbers have its step."""
    granularity: Granularity = PER_TENSOR

    @property
    def name(self) -> str:
        """As users call it."""
        return self.type.short

    def __str__(self) -> str:
        """Return it in words, as ``int8 per channel``."""
        return f"{self.name} {self.granularity}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """What `--dtype` and `--precision` name, and the manifest of a bundle."""

    name: str
    type: TensorType | None = None
    """Of all values; None where something is quantized, and `--dtype` says what the rest is."""
    weights: Format | None = None
    """Of the linears' weights ``[out, C]``: scales of rows, or of blocks along axis 1."""
    activations: Format | None = None
    """Of what the linears read; one scale for the tensor."""
    attention: Format | None = None
    """What attention's products may be quantized to besides, on request."""
    instead: str = ""
    """What to take on devices that lack what it needs."""
    relative_tolerance: float
    """Largest difference from torch at verification per unit of the output's largest value, when no --atol is given.

    fp32 differs by summation order alone. fp16 keeps 11 bits (5e-4 per rounding) and bf16 8 bits (4e-3); a tower adds
    up roundings of the residual stream. int8 and fp8 graphs are held against torch with the same codes and scales: a
    value near the border of two codes may fall on either side. What was reached stands in docs/benchmarks.md, well
    below.
    """
    largest_difference: float
    """Relative root mean square by which a backend's output may differ from the reference's.

    What two libraries differ by that both keep the graph's types: fp32 sums in another order (1e-6 on the demo, so that
    TensorFloat-32 and bf16 do not pass as fp32), fp16 rounds at other places (1e-3; eight bits in place of eleven,
    which is bf16, make 1e-2), bf16 has three bits less (4e-2). In 8 bits such a difference puts values on the other
    side of a rounding tie, and codes that move add up over the blocks: to 0.11 on random texts, where 8 bits themselves
    move the result by 0.12. A scale, zero point, mask or axis that is wrong makes 1 and more.
    """

    @property
    def quantized(self) -> bool:
        """Whether anything is quantized."""
        return self.weights is not None or self.activations is not None

    @property
    def needs(self) -> str:
        """What a device must have, as `Target.has` calls it: products are in the type of what the linears read."""
        kind = self.activations.type if self.activations is not None else self.type
        return kind.needs if kind is not None else ""


INT8 = Format(type=types.INT8, largest=127.0, lowest=-128.0)
"""-128 stays unused by weights, so that a code and its negative both exist."""
FP8 = Format(
    type=types.FLOAT8E4M3FN,
    largest=types.FLOAT8E4M3FN.largest,
    lowest=-types.FLOAT8E4M3FN.largest,
    mantissa_bits=3,
    smallest_exponent=-6,
)
"""E4M3: 448 is the largest finite number; what exceeds it saturates."""

PRECISIONS: Mapping[str, Precision] = {
    row.name: row
    for row in (
        Precision(name="fp32", type=types.FLOAT32, relative_tolerance=1e-4, largest_difference=1e-4),
        Precision(name="fp16", type=types.FLOAT16, relative_tolerance=1e-2, largest_difference=5e-3),
        Precision(name="bf16", type=types.BFLOAT16, relative_tolerance=6e-2, largest_difference=6e-2, instead="fp16"),
        Precision(
            name="int8",
            weights=replace(INT8, granularity=PER_ROW),
            activations=INT8,
            relative_tolerance=1e-1,
            largest_difference=0.25,
        ),
        Precision(
            name="fp8",
            weights=replace(FP8, granularity=PER_ROW),
            activations=FP8,
            attention=FP8,
            relative_tolerance=2e-1,
            largest_difference=0.25,
            instead="int8",
        ),
    )
}
DTYPES: Mapping[str, str] = {name: row.type.name for name, row in PRECISIONS.items() if row.type is not None}
"""What `--dtype` may be -> the name of its type."""
QUANTIZED: Mapping[str, Precision] = {name: row for name, row in PRECISIONS.items() if row.quantized}
"""What `--precision` may be."""
CODE_TYPES: tuple[TensorType, ...] = tuple(
    dict.fromkeys(form.type for row in QUANTIZED.values() for form in (row.weights, row.activations) if form)
)
"""Types that quantized values have."""
