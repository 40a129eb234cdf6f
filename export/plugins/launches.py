"""Launches: arguments, compile-time constants and grid of one variant of a kernel.

Tests with the interpreter, ahead-of-time compilation and TensorRT all use them, so that they cannot differ.
"""

import hashlib
import importlib
import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, TypeAlias

from internvl_edge.runtime.backends.tensorrt.plans.grid_sizes import Number, symbol
from internvl_edge.runtime.errors import EngineError, InputError
from internvl_edge.runtime.numbers import tensor_types as types
from internvl_edge.runtime.numbers.tensor_types import TensorType

Constant: TypeAlias = int | float | bool | str
Axis: TypeAlias = tuple[str, int]
"""Name of a tensor, and the index of one of its axes."""

ALIGNMENT_BYTES = 16
"""Alignment of every pointer: that of one vector load. TensorRT aligns device memory to 256 bytes."""

KERNEL_TYPES: Mapping[str, TensorType] = {
    row.short: row
    for row in (types.FLOAT32, types.FLOAT16, types.BFLOAT16, types.INT8, types.FLOAT8E4M3FN, types.INT32, types.INT64)
}
"""Name -> type of the tensors that kernels take; ``i32`` and ``i64`` are for ids and positions."""
TYPE_BYTES = {name: row.bits // 8 for name, row in KERNEL_TYPES.items()}

_KERNELS = "internvl_edge.export.plugins.kernels"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One tensor argument of a kernel, which is passed as a pointer."""

    name: str
    type: str
    """Name of its type, a key of `KERNEL_TYPES`."""
    shape: tuple[str | int, ...] = ()
    """Shape of an output, of names of the launch's sizes and numbers; empty for an input."""
    alias: str = ""
    """Name of the input whose memory an output shares; empty for none."""

    def __post_init__(self) -> None:
        """Check the type.

        Raises:
            InputError: no kernel has it.
        """
        if self.type not in KERNEL_TYPES:
            raise InputError(f"{self.name}: no tensor type {self.type!r}; kernels have {', '.join(KERNEL_TYPES)}")

    @property
    def triton_type(self) -> str:
        """Pointer type in Triton, for example ``*fp16``."""
        return f"*{KERNEL_TYPES[self.type].triton}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One variant of a kernel, with fixed types, constants and tiles."""

    plugin: str
    """Name of the plugin without the namespace, for example ``vit_attention``."""
    kernel: str
    """File and function below `kernels`, for example ``vit_attention.vit_attention``, or a full path."""
    inputs: tuple[Tensor, ...]
    sizes: Mapping[str, tuple[Axis, ...]] = field(hash=False)
    """Name of each size -> the input axes whose product it is, as ``{"B": (("qkv", 0),)}``."""
    integers: tuple[str, ...]
    """Names of the sizes that the kernel takes as 32-bit integers."""
    outputs: tuple[Tensor, ...]
    constants: Mapping[str, Constant] = field(hash=False)
    warps: int = 4
    stages: int = 2
    grid_function: str = "grid"
    """Name of the function in the kernel's file that returns the grid from sizes and constants."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors, inputs first."""
        return (*self.inputs, *self.outputs)

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names of the arguments in TensorRT's order: inputs, integers, outputs."""
        return (*(x.name for x in self.inputs), *self.integers, *(x.name for x in self.outputs))

    def function(self) -> Any:
        """Return the Triton function.

        Raises:
            EngineError: its arguments have another order than TensorRT's.
        """
        module, name = self._module()
        found = getattr(module, name)
        listed = [parameter for parameter in _parameters(found) if parameter in self.arguments]
        if tuple(listed) != self.arguments:
            raise EngineError(
                f"{self.kernel}: takes {', '.join(listed)}; plugins hand over {', '.join(self.arguments)}; "
                "put inputs first, then integers, then outputs"
            )
        return found

    def signature(self) -> dict[str, str]:
        """Return Triton's type of every parameter of the kernel, in order."""
        types = {x.name: x.triton_type for x in self.tensors} | dict.fromkeys(self.integers, "i32")
        return {name: types.get(name, "constexpr") for name in _parameters(self.function())}

    def constexprs(self) -> dict[str, Constant | None]:
        """Return the compile-time constants; a tensor that this variant lacks is None."""
        return {name: self.constants.get(name) for name, kind in self.signature().items() if kind == "constexpr"}

    def size_values(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
        """Return the sizes for the given shapes of inputs."""
        return {name: _product(shapes[tensor][axis] for tensor, axis in axes) for name, axes in self.sizes.items()}

    def grid(self, sizes: Mapping[str, Number]) -> tuple[Number, Number, Number]:
        """Return the number of blocks along x, y and z."""
        module, _ = self._module()
        known: dict[str, Any] = {**self.constants, **sizes}
        function = getattr(module, self.grid_function)
        wanted = list(inspect.signature(function).parameters)
        if missing := [name for name in wanted if name not in known]:
            raise EngineError(f"{self.kernel}: its grid needs {', '.join(missing)}, which the launch does not have")
        x, y, z = (*function(**{name: known[name] for name in wanted}), 1, 1)[:3]
        return x, y, z

    def symbolic_grid(self) -> tuple[Number, Number, Number]:
        """Return the grid as formulas of the sizes' names.

        Raises:
            EngineError: the grid branches on a size.
        """
        try:
            return self.grid({name: symbol(name) for name in self.sizes})
        except TypeError as error:
            raise EngineError(f"{self.kernel}: {error}") from error

    def check_shapes(self, shapes: Mapping[str, Sequence[int]], strides: Mapping[str, Sequence[int]]) -> None:
        """Check that the kernel can read the inputs: contiguous, not empty, and rows that fit vector loads.

        Strides are in elements.

        Raises:
            InputError: with all findings.
        """
        wrong = []
        for tensor in self.inputs:
            shape, stride = shapes[tensor.name], strides.get(tensor.name)
            if any(size <= 0 for size in shape):
                wrong.append(f"{tensor.name} is empty: {list(shape)}")
            if stride is not None and tuple(stride) != _packed(shape):
                wrong.append(f"{tensor.name} has strides {list(stride)}, the kernel reads {list(_packed(shape))}")
            elif len(shape) > 1 and (row_bytes := shape[-1] * TYPE_BYTES[tensor.type]) % ALIGNMENT_BYTES:
                wrong.append(f"{tensor.name} has rows of {row_bytes} bytes, no multiple of {ALIGNMENT_BYTES}")
        if wrong:
            raise InputError(f"{self.plugin}: {'; '.join(wrong)}; pass contiguous tensors of whole rows")

    def digest(self) -> str:
        """Return a digest of the launch for file names; it does not depend on the kernel's source."""
        tensors = [[tensor.name, tensor.type] for tensor in self.tensors]
        identity = [
            self.plugin,
            self.kernel,
            tensors,
            self.integers,
            sorted(self.constants.items()),
            self.warps,
            self.stages,
        ]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:20]

    def _module(self) -> tuple[ModuleType, str]:
        path, _, name = self.kernel.rpartition(".")
        return importlib.import_module(path if path.count(".") else f"{_KERNELS}.{path}"), name


def _parameters(function: Any) -> list[str]:
    """Return the parameter names of a Triton function; an interpreted one has its Python function in `fn`."""
    return list(inspect.signature(getattr(function, "fn", function)).parameters)


def _packed(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of a contiguous tensor, in elements."""
    strides = [1]
    for size in reversed(shape[1:]):
        strides.insert(0, strides[0] * size)
    return tuple(strides)


def _product(values: Iterable[int]) -> Any:
    product: Any = None
    for value in values:
        product = value if product is None else product * value
    return 1 if product is None else product
