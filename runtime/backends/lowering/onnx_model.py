"""An ONNX model with parsed nodes and initializers; everything else is kept as in the file.

Numbers of fields and types are those of onnx.proto, which never change. Devices do not have the package `onnx`.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from internvl_edge.runtime.backends.lowering.protobuf import Field, Message
from internvl_edge.runtime.numbers import tensor_types as types

_READ = (types.FLOAT32, types.UINT8, types.INT8, types.FLOAT16, types.BFLOAT16)
FLOAT, UINT8, INT8, FLOAT16, BFLOAT16 = (row.onnx for row in _READ)
"""Numbers in TensorProto.DataType of the types whose values are read."""
MICROSOFT = "com.microsoft"
"""Domain of ONNX Runtime's own operators."""

_MODEL_GRAPH, _MODEL_OPSETS, _MODEL_FUNCTIONS = 7, 8, 25
_FUNCTION_NAME, _FUNCTION_DOMAIN = 1, 10
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2
_GRAPH_NODES, _GRAPH_INITIALIZERS, _GRAPH_INPUTS, _GRAPH_OUTPUTS, _GRAPH_VALUE_INFOS = 1, 5, 11, 12, 13
_NODE_INPUTS, _NODE_OUTPUTS, _NODE_NAME, _NODE_OP_TYPE, _NODE_ATTRIBUTES, _NODE_DOMAIN = 1, 2, 3, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_TEXT, _ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH = 1, 3, 4, 5, 6
_ATTRIBUTE_INTS, _ATTRIBUTE_GRAPHS = 8, 11
_ATTRIBUTE_TYPE, _TYPE_INT, _TYPE_INTS = 20, 2, 7
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_INTEGERS, _TENSOR_NAME, _TENSOR_RAW, _TENSOR_EXTERNAL = 1, 2, 5, 8, 9, 13
_VALUE_NAME, _VALUE_TYPE, _TYPE_TENSOR, _ELEMENT_TYPE, _TENSOR_SHAPE = 1, 2, 1, 1, 2
_SHAPE_DIMS, _DIM_VALUE, _DIM_NAME = 1, 1, 2
_ENTRY_KEY, _ENTRY_VALUE = 1, 2

_TYPES = {row.onnx: row for row in types.TENSOR_TYPES.values()}
_STORED = {row.onnx: np.dtype(row.stored) for row in _READ}
"""NumPy types of the types that are read; bfloat16 is held as its 16-bit encoding."""
_CODES = {np.dtype(np.float32): FLOAT, np.dtype(np.uint8): UINT8, np.dtype(np.int8): INT8}


@dataclass(frozen=True, slots=True)
class DeclaredType:
    """Type and shape of a value in the file."""

    dtype: int
    """Number of the element type in TensorProto.DataType."""
    axes: tuple[int | str | None, ...] | None
    """Sizes of axes, names or expressions of dynamic ones, None for dynamic ones without a name; None without a
    shape."""


@dataclass(slots=True, eq=False)
class Tensor:
    """A constant, whose values may be in another file."""

    message: Message

    @classmethod
    def of(cls, name: str, values: np.ndarray) -> "Tensor":
        """Return a constant whose `values` are in the model itself."""
        message = Message()
        message.put(_TENSOR_DIMS, *values.shape)
        message.put(_TENSOR_TYPE, _CODES[values.dtype])
        message.put(_TENSOR_NAME, name)
        message.put(_TENSOR_RAW, values.tobytes())
        return cls(message)

    @property
    def name(self) -> str:
        """Return the name."""
        return self.message.text(_TENSOR_NAME)

    @property
    def dtype(self) -> int:
        """Return the TensorProto.DataType."""
        return self.message.integer(_TENSOR_TYPE)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape."""
        return tuple(self.message.integers(_TENSOR_DIMS))

    @property
    def size(self) -> int:
        """Return the number of values."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def is_external(self) -> bool:
        """Return whether the values are in another file."""
        return bool(self.message.all_data(_TENSOR_EXTERNAL))

    @property
    def place(self) -> tuple[str, int]:
        """Return the file of the values, as the model names it, and their offset in bytes."""
        entries = self.message.messages(_TENSOR_EXTERNAL)
        where = {entry.text(_ENTRY_KEY): entry.text(_ENTRY_VALUE) for entry in entries}
        return where["location"], int(where.get("offset", 0))

    def values(self, folder: Path) -> np.ndarray:
        """Return a copy of the values; `folder` is that of the model, relative to which external files are named."""
        stored = _STORED[self.dtype]
        if self.is_external:
            location, offset = self.place
            flat = np.fromfile(folder / location, stored, self.size, offset=offset)
        elif raw := self.message.data(_TENSOR_RAW):
            flat = np.frombuffer(raw, stored).copy()
        else:
            integers = np.array(self.message.integers(_TENSOR_INTEGERS), np.int64)
            flat = integers.astype(np.uint16).view(stored) if stored.itemsize == 2 else integers.astype(stored)
        return flat.reshape(self.shape)


@dataclass(slots=True, eq=False)
class Node:
    """A node of the graph."""

    op_type: str
    inputs: list[str]
    outputs: list[str]
    domain: str = ""
    attributes: dict[str, Message] = field(default_factory=dict)
    rest: list[Field] = field(default_factory=list)
    """Name of the node and all other fields."""

    @classmethod
    def parse(cls, message: Message) -> "Node":
        """Read a node."""
        known = (_NODE_INPUTS, _NODE_OUTPUTS, _NODE_OP_TYPE, _NODE_ATTRIBUTES, _NODE_DOMAIN)
        return cls(
            op_type=message.text(_NODE_OP_TYPE),
            inputs=message.texts(_NODE_INPUTS),
            outputs=message.texts(_NODE_OUTPUTS),
            domain=message.text(_NODE_DOMAIN),
            attributes={each.text(_ATTRIBUTE_NAME): each for each in message.messages(_NODE_ATTRIBUTES)},
            rest=message.without(known),
        )

    def message(self) -> Message:
        """Return the node as a message of the file."""
        message = Message(list(self.rest))
        message.put(_NODE_INPUTS, *self.inputs)
        message.put(_NODE_OUTPUTS, *self.outputs)
        message.put(_NODE_OP_TYPE, self.op_type)
        message.put(_NODE_ATTRIBUTES, *self.attributes.values())
        message.put(_NODE_DOMAIN, self.domain)
        return message

    @property
    def name(self) -> str:
        """Return the name."""
        return Message(list(self.rest)).text(_NODE_NAME)

    def integer(self, name: str, default: int) -> int:
        """Return an attribute that is an integer."""
        return self.attributes[name].integer(_ATTRIBUTE_INT) if name in self.attributes else default

    def integers(self, name: str) -> list[int]:
        """Return an attribute that is a list of integers."""
        return self.attributes[name].integers(_ATTRIBUTE_INTS) if name in self.attributes else []

    def text(self, name: str, default: str) -> str:
        """Return an attribute that is a string."""
        return self.attributes[name].text(_ATTRIBUTE_TEXT) if name in self.attributes else default

    def put_integer(self, name: str, value: int) -> None:
        """Set an attribute that is an integer."""
        attribute = Message()
        attribute.put(_ATTRIBUTE_NAME, name)
        attribute.put(_ATTRIBUTE_INT, value)
        attribute.put(_ATTRIBUTE_TYPE, _TYPE_INT)
        self.attributes[name] = attribute

    def put_integers(self, name: str, values: Sequence[int]) -> None:
        """Set an attribute that is a list of integers."""
        attribute = Message()
        attribute.put(_ATTRIBUTE_NAME, name)
        attribute.put(_ATTRIBUTE_INTS, *values)
        attribute.put(_ATTRIBUTE_TYPE, _TYPE_INTS)
        self.attributes[name] = attribute

    def tensor(self, name: str) -> Tensor | None:
        """Return an attribute that is a tensor."""
        data = self.attributes[name].data(_ATTRIBUTE_TENSOR) if name in self.attributes else b""
        return Tensor(Message.parse(data)) if data else None

    def put_tensor(self, name: str, tensor: Tensor) -> None:
        """Replace the values of an attribute that is a tensor."""
        self.attributes[name].put(_ATTRIBUTE_TENSOR, tensor.message)

    @property
    def has_graphs(self) -> bool:
        """Return whether it has a subgraph, as loops and branches do, which uses values of the outer graph by name."""
        graphs = (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS)
        return any(each.data(number) for each in self.attributes.values() for number in graphs)


class OnnxModel:
    """A model whose constants may be in other files of `folder`."""

    def __init__(self, data: bytes, folder: Path) -> None:
        self.folder = folder
        self._model = Message.parse(data)
        self._graph = self._model.message(_MODEL_GRAPH)
        self.nodes = [Node.parse(each) for each in self._graph.messages(_GRAPH_NODES)]
        tensors = [Tensor(each) for each in self._graph.messages(_GRAPH_INITIALIZERS)]
        self.initializers = {tensor.name: tensor for tensor in tensors}
        self._shapes = {value.text(_VALUE_NAME): _shape(value) for value in self._graph.messages(_GRAPH_VALUE_INFOS)}
        self.outputs = frozenset(value.text(_VALUE_NAME) for value in self._graph.messages(_GRAPH_OUTPUTS))

    def encode(self) -> bytes:
        """Return the model's bytes, without types of inner values, which may have changed and are inferred."""
        self._graph.put(_GRAPH_NODES, *(node.message() for node in self.nodes))
        self._graph.put(_GRAPH_INITIALIZERS, *(tensor.message for tensor in self.initializers.values()))
        self._graph.put(_GRAPH_VALUE_INFOS)
        self._model.put(_MODEL_GRAPH, self._graph)
        return self._model.encode()

    def shape(self, name: str) -> tuple[int | None, ...]:
        """Return the shape of an inner value in the file, None for dynamic axes; () where the file has no shape."""
        return self._shapes.get(name, ())

    def weight_bytes(self) -> int:
        """Return the bytes of the constants in other files."""
        held = [tensor for tensor in self.initializers.values() if tensor.is_external]
        return sum(_TYPES[tensor.dtype].nbytes(tensor.shape) for tensor in held)

    def input_names(self) -> list[str]:
        """Return the names of the inputs in order."""
        return [value.text(_VALUE_NAME) for value in self._graph.messages(_GRAPH_INPUTS)]

    def declared(self) -> dict[str, DeclaredType]:
        """Return type and shape of inputs, inner values, outputs and constants by name."""
        numbers = (_GRAPH_INPUTS, _GRAPH_VALUE_INFOS, _GRAPH_OUTPUTS)
        values = (value for number in numbers for value in self._graph.messages(number))
        constants = {name: DeclaredType(tensor.dtype, tensor.shape) for name, tensor in self.initializers.items()}
        return {value.text(_VALUE_NAME): _declared(value) for value in values} | constants

    def functions(self) -> set[tuple[str, str]]:
        """Return domain and name of the functions that the model defines."""
        found = self._model.messages(_MODEL_FUNCTIONS)
        return {(each.text(_FUNCTION_DOMAIN), each.text(_FUNCTION_NAME)) for each in found}

    def producers(self) -> dict[str, Node]:
        """Return the node that computes each value, by the value's name."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    def uses(self) -> dict[str, list[Node]]:
        """Return the nodes that read each value, once for each use."""
        uses: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.inputs:
                uses.setdefault(name, []).append(node)
        return uses

    def constant(self, name: str, values: np.ndarray) -> str:
        """Add a constant unless its name exists already; return the name."""
        self.initializers.setdefault(name, Tensor.of(name, values))
        return name

    def drop_unused(self) -> None:
        """Remove nodes and constants that no output depends on."""
        used, kept = set(self.outputs), []
        for node in reversed(self.nodes):  # ONNX sorts nodes, so that a value's readers come after its node
            if used.intersection(node.outputs):
                used.update(node.inputs)
                kept.append(node)
        self.nodes = kept[::-1]
        self.initializers = {name: tensor for name, tensor in self.initializers.items() if name in used}

    def require_domain(self, domain: str) -> None:
        """Add version 1 of the operator set `domain`."""
        opsets = self._model.messages(_MODEL_OPSETS)
        if domain not in (opset.text(_OPSET_DOMAIN) for opset in opsets):
            opset = Message()
            opset.put(_OPSET_DOMAIN, domain)
            opset.put(_OPSET_VERSION, 1)
            self._model.put(_MODEL_OPSETS, *opsets, opset)

    def retype_inputs_and_outputs(self, types: Container[int], to: int) -> set[int]:
        """Change inputs and outputs of these element types to the type `to`; return the types that were changed."""
        found = set()
        for number in (_GRAPH_INPUTS, _GRAPH_OUTPUTS):
            values = self._graph.messages(number)
            for value in values:
                kind, tensor = value.message(_VALUE_TYPE), value.message(_VALUE_TYPE).message(_TYPE_TENSOR)
                if (dtype := tensor.integer(_ELEMENT_TYPE)) in types:
                    found.add(dtype)
                    tensor.put(_ELEMENT_TYPE, to)
                    kind.put(_TYPE_TENSOR, tensor)
                    value.put(_VALUE_TYPE, kind)
            self._graph.put(number, *values)
        return found


def _declared(value: Message) -> DeclaredType:
    tensor = value.message(_VALUE_TYPE).message(_TYPE_TENSOR)
    shapes = tensor.messages(_TENSOR_SHAPE)
    axes = tuple(_axis(dim) for dim in shapes[-1].messages(_SHAPE_DIMS)) if shapes else None
    return DeclaredType(tensor.integer(_ELEMENT_TYPE), axes)


def _axis(dim: Message) -> int | str | None:
    sizes = dim.integers(_DIM_VALUE)
    return sizes[-1] if sizes else dim.text(_DIM_NAME) or None


def _shape(value: Message) -> tuple[int | None, ...]:
    dims = value.message(_VALUE_TYPE).message(_TYPE_TENSOR).message(_TENSOR_SHAPE).messages(_SHAPE_DIMS)
    return tuple(dim.integer(_DIM_VALUE) or None for dim in dims)
