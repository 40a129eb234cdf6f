"""The kernels of a plan that quantize and dequantize, fused with other work or on their own."""

from collections.abc import Sequence
from dataclasses import dataclass

from internvl_edge.runtime.inspect.plan.launches import Launch, on_device
from internvl_edge.runtime.inspect.plan.schedule import Program
from internvl_edge.runtime.inspect.plan.traffic import is_constant
from internvl_edge.runtime.numbers.formats import CODE_TYPES

_NARROW = frozenset(row.plan for row in CODE_TYPES)
_NODES = ("QuantizeLinear", "DequantizeLinear")
_PRODUCTS = ("matmul", "convolution", "attention")
_SCALING = frozenset({"Mul", "Div", "Min", "Max", "Roun", "Cast", "Move", "Resh"})
"""Operations of scaling, rounding and clipping, as kernels' names abbreviate them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QdqRoles:
    """The part of one kernel in quantization and dequantization; "" for none."""

    quantizes: str
    """How it converts wide values to 8 bits: ``fused`` with other work, or on its ``own``."""
    dequantizes: str
    """How it converts 8 bits to wide values: in the ``product``, or after it, ``fused`` or on its ``own``."""


def qdq_roles(launches: Sequence[Launch], program: Program) -> tuple[QdqRoles, ...]:
    """Return the roles of each launch, in order."""
    products = {layer for launch in launches if launch.category in _PRODUCTS for layer in launch.step.layers}
    scaling = [launch for launch in launches if _applies_scales(launch, program)]
    finished = {_root(name, program) for launch in scaling for name in launch.step.inputs}
    return tuple(
        QdqRoles(
            quantizes=_place(launch, products) if _quantizes(launch, program) else "",
            dequantizes=_dequantizes(launch, program, products, finished),
        )
        for launch in launches
    )


def _quantizes(launch: Launch, program: Program) -> bool:
    reads, writes = (_types(names, program) for names in (launch.step.inputs, launch.step.outputs))
    return bool(writes & _NARROW) and bool(reads) and not reads & _NARROW


def _applies_scales(launch: Launch, program: Program) -> bool:
    """Return whether a kernel applies the scales of an 8-bit product before it."""
    scaled = any("DequantizeLinear" in layer for layer in launch.step.layers)
    return scaled and launch.category not in _PRODUCTS and not _types(launch.step.inputs, program) & _NARROW


def _dequantizes(launch: Launch, program: Program, products: set[str], finished: set[str]) -> str:
    """Return how a launch dequantizes; a product does if no later kernel applies scales to its output."""
    if _applies_scales(launch, program):
        return _place(launch, products)
    reads, writes = (_types(names, program) for names in (launch.step.inputs, launch.step.outputs))
    if not reads & _NARROW or not writes - _NARROW:
        return ""
    if launch.category not in _PRODUCTS:
        return _place(launch, products)
    return "" if finished & {_root(name, program) for name in launch.step.outputs} else "product"


def _place(launch: Launch, products: set[str]) -> str:
    """Return ``fused`` if a kernel does more than scaling, that is, has other nodes or operations; else ``own``."""
    other = [
        layer for layer in launch.step.layers if not any(node in layer for node in _NODES) and layer not in products
    ]
    return "fused" if other or set(launch.operations) - _SCALING or launch.category in _PRODUCTS else "own"


def _types(names: Sequence[str], program: Program) -> set[str]:
    """Return the types of the activations among `names`."""
    tensors = [program.tensors[name] for name in names if on_device(name, program)]
    return {tensor.dtype for tensor in tensors if not is_constant(tensor)}


def _root(name: str, program: Program) -> str:
    """Return the tensor of which `name` is a view, or `name` itself."""
    tensor = program.tensors.get(name)
    return tensor.base if tensor is not None and tensor.base is not None else name
