"""Tables of the formats that values are quantized to and of the precisions that a bundle may have.

A precision names the formats of weights and of activations separately, and either may be None. Everything that depends
on a precision (types, limits, scales, tolerances, requirements on the device) is a field of its row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from internvl_edge.runtime.numbers import tensor_types as types
from internvl_edge.runtime.numbers.tensor_types import TensorType


@dataclass(frozen=True, slots=True)
class Granularity:
    """Sets of values of a tensor that share one scale, as in QuantizeLinear and DequantizeLinear."""

    axis: int | None = None
    """Axis of which each index has a scale of its own; None for one scale for the tensor."""
    block: int | None = None
    """Number of neighbours along `axis` that share a scale, for each index of the other axes; None without blocks."""

    @property
    def attributes(self) -> dict[str, int]:
        """Return the attributes of the ONNX nodes QuantizeLinear and DequantizeLinear."""
        found = {"axis": self.axis, "block_size": self.block}
        return {name: value for name, value in found.items() if value is not None}

    def scale_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the scale of a tensor.

        Raises:
            ValueError: the size of the axis is no multiple of the block size.
        """
        if self.axis is None:
            return ()
        if self.block is None:
            return (shape[self.axis],)
        if shape[self.axis] % self.block:
            raise ValueError(f"axis {self.axis} of {list(shape)} is no multiple of blocks of {self.block}")
        return (*shape[: self.axis], shape[self.axis] // self.block, *shape[self.axis + 1 :])

    def __str__(self) -> str:
        """Return the granularity in words."""
        if self.axis is None:
            return "per tensor"
        return "per channel" if self.block is None else f"per block of {self.block}"


PER_TENSOR = Granularity()
PER_ROW = Granularity(axis=0)
"""One scale for each output channel of a weight ``[out, C]``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A symmetric quantized format: a value is ``code * scale``, and the zero point is 0."""

    type: TensorType
    """Type of the codes."""
    largest: float
    """Magnitude of the largest code in use. A scale is amax / largest."""
    lowest: float
    """Code at which QuantizeLinear saturates below; it may be one beyond ``-largest``."""
    mantissa_bits: int | None = None
    """Mantissa bits of a floating-point format; None for integers, whose steps are equal everywhere."""
    smallest_exponent: int = 0
    """Smallest exponent of a normal number; subnormal numbers have its step."""
    granularity: Granularity = PER_TENSOR

    @property
    def name(self) -> str:
        """Return the name in options and messages."""
        return self.type.short

    def __str__(self) -> str:
        """Return the format in words, as ``int8 per channel``."""
        return f"{self.name} {self.granularity}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """A precision as `--dtype`, `--precision` and the manifest of a bundle name it."""

    name: str
    type: TensorType | None = None
    """Type of all values; None for quantized precisions, where `--dtype` sets the type of the rest."""
    weights: Format | None = None
    """Format of the weights ``[out, C]`` of linears, with a scale for each row or for blocks along axis 1."""
    activations: Format | None = None
    """Format of the inputs of linears, with one scale for the tensor."""
    attention: Format | None = None
    """Format to which the products of attention can be quantized too, on request."""
    instead: str = ""
    """Name of the precision that messages recommend for devices that lack this one."""
    relative_tolerance: float
    """Largest difference from torch at verification, relative to the output's largest value, without `--atol`.

    fp32 differs by the order of sums alone. fp16 keeps 11 bits (5e-4 per rounding) and bf16 8 bits (4e-3), and the
    roundings of the residual stream add up over a tower. int8 and fp8 graphs are compared with torch modules of the
    same codes and scales, where a value near the border of two codes may fall on either side. The differences that
    were measured, well below these limits, are in docs/benchmarks.md.
    """
    largest_difference: float
    """Largest difference of a backend's output from the reference backend's, as relative root mean square.

    It allows for the differences of two libraries that both keep the graph's types. fp32 sums in another order (1e-6 on
    the demo, so that TensorFloat-32 and bf16 do not pass as fp32). fp16 rounds at other places (1e-3; with the eight
    bits of bf16 it would be 1e-2). bf16 has three bits less (4e-2). In 8 bits such a difference moves values to the
    other side of a rounding tie, and the changed codes add up over the blocks: to 0.11 on random texts, where 8 bits
    themselves change the result by 0.12. A wrong scale, zero point, mask or axis gives 1 and more.
    """

    @property
    def quantized(self) -> bool:
        """Return whether weights or activations are quantized."""
        return self.weights is not None or self.activations is not None

    @property
    def needs(self) -> str:
        """Return the argument of `Target.has` for this precision: products have the type of the linears' inputs."""
        kind = self.activations.type if self.activations is not None else self.type
        return kind.needs if kind is not None else ""


INT8 = Format(type=types.INT8, largest=127.0, lowest=-128.0)
"""INT8, in which weights do not use -128, so that the negative of every code exists."""
FP8 = Format(
    type=types.FLOAT8E4M3FN,
    largest=types.FLOAT8E4M3FN.largest,
    lowest=-types.FLOAT8E4M3FN.largest,
    mantissa_bits=3,
    smallest_exponent=-6,
)
"""FP8 in E4M3. The largest finite number is 448, at which larger values saturate."""

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
"""Name of the tensor type for each value of `--dtype`."""
QUANTIZED: Mapping[str, Precision] = {name: row for name, row in PRECISIONS.items() if row.quantized}
"""Precisions that `--precision` may name."""
CODE_TYPES: tuple[TensorType, ...] = tuple(
    dict.fromkeys(form.type for row in QUANTIZED.values() for form in (row.weights, row.activations) if form)
)
"""Types of codes of all quantized precisions."""
