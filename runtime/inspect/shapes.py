"""Shapes of a graph's values, from its declared axes: numbers, names, and expressions of names."""

import ast
import math
import operator
from collections.abc import Callable, Iterable, Mapping

from internvl_edge.runtime.backends.lowering.onnx_model import OnnxModel
from internvl_edge.runtime.errors import ExportError

Shape = tuple[int, ...]

_OPERATORS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_FUNCTIONS: Mapping[str, Callable[[Iterable[int]], int]] = {"max": max, "min": min}

_BITS = {
    **dict.fromkeys((25, 26), 2),  # UINT2, INT2
    **dict.fromkeys((21, 22, 23), 4),  # UINT4, INT4, FLOAT4E2M1
    **dict.fromkeys((27, 28), 6),  # FLOAT6E2M3, FLOAT6E3M2
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20, 24), 8),  # UINT8, INT8, BOOL, the FLOAT8 types
    **dict.fromkeys((4, 5, 10, 16), 16),  # UINT16, INT16, FLOAT16, BFLOAT16
    **dict.fromkeys((1, 6, 12), 32),  # FLOAT, INT32, UINT32
    **dict.fromkeys((7, 11, 13, 14), 64),  # INT64, DOUBLE, UINT64, COMPLEX64
    15: 128,  # COMPLEX128
}
"""TensorProto.DataType -> bits of one value."""


class Shapes:
    """The shapes of the values of one graph at given sizes of its axes."""

    def __init__(self, name: str, model: OnnxModel, sizes: Mapping[str, int]) -> None:
        """Bind the axes of the inputs.

        Raises:
            ExportError: `sizes` lacks axes of the inputs; the message names all of them.
        """
        self._name = name
        self._declared = model.declared()
        self._sizes = sizes
        inputs = (axis for value in model.input_names() for axis in self._declared[value].axes or ())
        names = {axis for axis in inputs if isinstance(axis, str) and axis.isidentifier()}
        if unbound := sorted(names - sizes.keys()):
            raise ExportError(f"{name}: no size for axes {', '.join(unbound)}; FLOPs need one for each")

    def find(self, value: str) -> Shape | None:
        """Return the shape of `value`, or None if the file does not declare it."""
        declared = self._declared.get(value)
        if declared is None or declared.axes is None:
            return None
        axes = [axis_size(axis, self._sizes) for axis in declared.axes]
        return None if None in axes else tuple(axis for axis in axes if axis is not None)

    def __getitem__(self, value: str) -> Shape:
        """Return the shape of `value`.

        Raises:
            ExportError: The file does not declare it.
        """
        found = self.find(value)
        if found is None:
            raise ExportError(f"{self._name}: the graph does not tell the shape of {value}; write bundle or kit again")
        return found

    def bytes(self, value: str) -> int:
        """Return the bytes of `value`; 0 if the file does not declare its shape or type."""
        shape = self.find(value)
        return 0 if shape is None else type_bytes(self._declared[value].dtype, math.prod(shape))


def type_bytes(dtype: int, count: int) -> int:
    """Return the bytes of `count` values of a TensorProto.DataType; values of less than a byte are packed."""
    return math.ceil(_BITS.get(dtype, 0) * count / 8)


def axis_size(axis: int | str | None, sizes: Mapping[str, int]) -> int | None:
    """Return the size of an axis, a number or an expression such as ``past + length``; None if it has no value."""
    if axis is None or isinstance(axis, int):
        return axis
    if axis in sizes:
        return sizes[axis]
    try:
        return _evaluate(ast.parse(axis, mode="eval").body, sizes)
    except (SyntaxError, KeyError, ZeroDivisionError):
        return None


def _evaluate(node: ast.expr, sizes: Mapping[str, int]) -> int:
    """Return the value of an expression of integers; raise KeyError for unknown names and constructs."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Name):
        return sizes[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluate(node.operand, sizes)
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)](_evaluate(node.left, sizes), _evaluate(node.right, sizes))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _FUNCTIONS[node.func.id.lower()]([_evaluate(argument, sizes) for argument in node.args])
    raise KeyError(ast.unparse(node))


def peak_activation_bytes(name: str, model: OnnxModel, sizes: Mapping[str, int]) -> int:
    """Return the largest size in bytes of all values that are alive at one node of graph `name`, at given `sizes`.

    A builder fuses layers and reuses memory, so a plan needs less; weights are not counted.

    Raises:
        ExportError: `sizes` lacks dynamic axes of the inputs; the message names all of them.
    """
    shapes = Shapes(name, model, sizes)
    last = {value: index for index, node in enumerate(model.nodes) for value in node.inputs if value}
    ends: dict[int, list[str]] = {}
    for value, index in last.items():
        if value not in model.outputs and value not in model.initializers:
            ends.setdefault(index, []).append(value)
    held = peak = sum(shapes.bytes(value) for value in model.input_names())
    for index, node in enumerate(model.nodes):
        held += sum(shapes.bytes(value) for value in node.outputs if value)
        peak = max(peak, held)
        held -= sum(shapes.bytes(value) for value in ends.get(index, ()))
    return peak
