"""Memory traffic of each step, from the declarations of its tensors at given sizes."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from internvl_edge.runtime.inspect.plan.launches import on_device, operations_of
from internvl_edge.runtime.inspect.plan.schedule import Program, Step, Tensor
from internvl_edge.runtime.inspect.plan.symbols import Sizes
from internvl_edge.runtime.numbers.tensor_types import TENSOR_TYPES

_BYTES = {row.plan: Fraction(row.bits, 8) for row in TENSOR_TYPES.values() if row.plan}
"""The plan's name of a type -> bytes of one value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Bytes that one step moves between the device's memory and its cores; each tensor counts once."""

    read_bytes: int
    """Bytes read, weights included."""
    weight_bytes: int
    """Bytes of constants among those read."""
    written_bytes: int
    """Bytes written."""
    at_most: bool
    """Whether the kernel slices an operand, so that it may read less than the whole tensor."""

    @property
    def bytes(self) -> int:
        """Return all bytes moved."""
        return self.read_bytes + self.written_bytes


def traffic_of(step: Step, program: Program, sizes: Sizes) -> Traffic | None:
    """Return the traffic of `step`, or None if a size or type is unknown.

    A table from which a kernel gathers counts for no more bytes than the kernel writes, since other rows are not read.
    """
    operations = operations_of(step.name)
    reads, writes = _declared(step.inputs, program), _declared(step.outputs, program)
    sized = {tensor.name: tensor_bytes(tensor, sizes) for tensor in (*reads, *writes)}
    if None in sized.values():
        return None
    known = {name: size for name, size in sized.items() if size is not None}
    written = sum(known[tensor.name] for tensor in writes)
    gathers = "Gath" in operations
    counted = {
        tensor.name: min(known[tensor.name], written) if gathers and is_constant(tensor) else known[tensor.name]
        for tensor in reads
    }
    return Traffic(
        read_bytes=sum(counted.values()),
        weight_bytes=sum(counted[tensor.name] for tensor in reads if is_constant(tensor)),
        written_bytes=written,
        at_most="Slic" in operations or "Spli" in operations,
    )


def tensor_bytes(tensor: Tensor, sizes: Sizes) -> int | None:
    """Return the bytes of a tensor or view, or None if its type or a size is unknown."""
    if tensor.constant_bytes is not None:
        return tensor.constant_bytes
    shape = sizes.shape(tensor.dims)
    if shape is None or tensor.dtype not in _BYTES:
        return None
    return math.ceil(math.prod(shape) * _BYTES[tensor.dtype])


def is_constant(tensor: Tensor) -> bool:
    """Return whether a tensor is a weight or another value stored in the plan."""
    return tensor.constant_bytes is not None


def activation_bytes(program: Program) -> int | None:
    """Return the device memory for activations and scratch at the profile's largest shapes; None if not declared."""
    regions = [region for region in program.regions if region.place == "accelerator" and not region.constant]
    return sum(region.bytes for region in regions) if regions else None


def weight_bytes(program: Program) -> int:
    """Return the bytes of all constants; constants that share a payload count once."""
    payloads = {(t.region, t.offset, t.constant_bytes): t.constant_bytes or 0 for t in program.tensors.values()}
    return sum(payloads.values())


def _declared(names: Iterable[str], program: Program) -> list[Tensor]:
    """Return the tensors in device memory among `names`, each once."""
    return [program.tensors[name] for name in dict.fromkeys(names) if on_device(name, program)]
