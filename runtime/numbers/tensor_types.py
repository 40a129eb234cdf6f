"""Table of tensor types, with the name of each type in every library and file format."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorType:
    """A type of tensors. A name is "" where the library or file format has no such type."""

    name: str
    """Name in NumPy, torch and the manifest of a bundle."""
    short: str
    """Name in options, data sheets and this project's kernels."""
    bits: int
    """Number of bits of one value."""
    onnx: int
    """Number in TensorProto.DataType, which never changes."""
    stored: str
    """NumPy type in memory and files: uint8 where several values share a byte, uint16 for the encoding of bfloat16."""
    torch: str = ""
    """Name of the torch type with these values."""
    safetensors: str = ""
    """Name in the header of a safetensors file, ``U8`` where several values share a byte."""
    protocol: str = ""
    """Name in the Open Inference Protocol and Triton Inference Server."""
    tensorrt: str = ""
    """Name of the member of ``tensorrt.DataType``."""
    triton: str = ""
    """Name of the element type of pointers in the Triton language."""
    plan: str = ""
    """Name in the text of a TensorRT-RTX plan."""
    largest: float = math.inf
    """Largest finite number of a floating-point type of at most 16 bits; infinite for wider ones, which never overflow
    here."""
    needs: str = ""
    """Requirement on a device that multiplies this type, as an argument of `Target.has`; "" without one."""

    @property
    def per_byte(self) -> int:
        """Return how many values share one byte; 1 where a value takes a byte or more."""
        return max(1, 8 // self.bits)

    def nbytes(self, shape: Sequence[int]) -> int:
        """Return the number of bytes of a tensor, of which the last may be partly filled."""
        return -(-math.prod(shape) * self.bits // 8)

    def stored_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the array of type `stored`, in which values that share bytes do so along the last axis.

        Raises:
            ValueError: the last axis does not fill whole bytes.
        """
        if self.per_byte == 1:
            return tuple(shape)
        if not shape or shape[-1] % self.per_byte:
            raise ValueError(f"{self.name} {list(shape)}: {self.per_byte} values share a byte along the last axis")
        return (*shape[:-1], shape[-1] // self.per_byte)


FLOAT64 = TensorType(
    name="float64",
    short="fp64",
    bits=64,
    onnx=11,
    stored="float64",
    torch="float64",
    safetensors="F64",
    protocol="FP64",
    triton="fp64",
    plan="double",
)
FLOAT32 = TensorType(
    name="float32",
    short="fp32",
    bits=32,
    onnx=1,
    stored="float32",
    torch="float32",
    safetensors="F32",
    protocol="FP32",
    tensorrt="FLOAT",
    triton="fp32",
    plan="float",
)
FLOAT16 = TensorType(
    name="float16",
    short="fp16",
    bits=16,
    onnx=10,
    stored="float16",
    torch="float16",
    safetensors="F16",
    protocol="FP16",
    tensorrt="HALF",
    triton="fp16",
    plan="half",
    largest=65504.0,
)
BFLOAT16 = TensorType(
    name="bfloat16",
    short="bf16",
    bits=16,
    onnx=16,
    stored="uint16",
    torch="bfloat16",
    safetensors="BF16",
    protocol="BF16",
    tensorrt="BF16",
    triton="bf16",
    plan="bf16",
    largest=3.3895313892515355e38,
    needs="bf16",
)
FLOAT8E4M3FN = TensorType(
    name="float8_e4m3fn",
    short="fp8",
    bits=8,
    onnx=17,
    stored="uint8",
    torch="float8_e4m3fn",
    safetensors="F8_E4M3",
    tensorrt="FP8",
    triton="fp8e4nv",
    plan="fp8_e4m3",
    largest=448.0,
    needs="FP8",
)
FLOAT8E8M0 = TensorType(name="float8_e8m0fnu", short="e8m0", bits=8, onnx=24, stored="uint8", plan="fp8_ue8m0")
FLOAT4E2M1 = TensorType(
    name="float4_e2m1fn", short="fp4", bits=4, onnx=23, stored="uint8", plan="fp4_e2m1", largest=6.0
)
INT64 = TensorType(
    name="int64",
    short="i64",
    bits=64,
    onnx=7,
    stored="int64",
    torch="int64",
    safetensors="I64",
    protocol="INT64",
    tensorrt="INT64",
    triton="i64",
    plan="int64",
)
INT32 = TensorType(
    name="int32",
    short="i32",
    bits=32,
    onnx=6,
    stored="int32",
    torch="int32",
    safetensors="I32",
    protocol="INT32",
    tensorrt="INT32",
    triton="i32",
    plan="int32",
)
INT8 = TensorType(
    name="int8",
    short="int8",
    bits=8,
    onnx=3,
    stored="int8",
    torch="int8",
    safetensors="I8",
    protocol="INT8",
    tensorrt="INT8",
    triton="i8",
    plan="int8",
)
INT4 = TensorType(
    name="int4", short="int4", bits=4, onnx=22, stored="uint8", safetensors="U8", tensorrt="INT4", plan="int4"
)
UINT8 = TensorType(
    name="uint8",
    short="u8",
    bits=8,
    onnx=2,
    stored="uint8",
    torch="uint8",
    safetensors="U8",
    protocol="UINT8",
    tensorrt="UINT8",
    triton="u8",
    plan="uint8",
)
BOOL = TensorType(
    name="bool",
    short="bool",
    bits=8,
    onnx=9,
    stored="bool",
    torch="bool",
    safetensors="BOOL",
    protocol="BOOL",
    tensorrt="BOOL",
    triton="i1",
    plan="bool",
)
TENSOR_TYPES: Mapping[str, TensorType] = {
    row.name: row
    for row in (
        *(BOOL, UINT8, INT8, INT32, INT64, FLOAT16, BFLOAT16, FLOAT32, FLOAT64),
        *(FLOAT8E4M3FN, FLOAT8E8M0, FLOAT4E2M1, INT4),
    )
}
"""Tensor types by name, first those of the Open Inference Protocol in the order in which the server lists them."""
