"""Rewrite a graph for OpenVINO so that it keeps its cache itself, as states, which its attention kernel appends to.

A graph takes `past_key_values.*` and returns ``present.*``. With both as a state, OpenVINO's processor plugin joins the
state, the attention and the repeated heads of keys to one kernel, if the rows of the cache are gathered by an input
`beam_idx` and repeated heads are broadcast. It then copies neither the cache in a step nor rows that a search selects.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

PAST, PRESENT, ROWS = "past_key_values.", "present.", "beam_idx"
"""Prefixes of the tensors of the cache, and the input with the row of the cache that each row continues."""
_EMBEDDINGS, _MASK, _POSITIONS = "inputs_embeds", "attention_mask", "position_ids"


def keep_cache(model: Any) -> Any | None:
    """Return `model` with states in place of its cache, each named as its output; None if its cache is of another kind.

    Captions are of another kind: their cache starts as that of the queries and is short.
    """
    inputs = {port.get_any_name(): port.get_node() for port in model.inputs}
    outputs = {port.get_any_name(): port.get_node() for port in model.outputs}
    past = {name: node for name, node in inputs.items() if name.startswith(PAST)}
    appends = {name: _append(node, outputs.get(name.replace(PAST, PRESENT, 1))) for name, node in past.items()}
    if _EMBEDDINGS not in inputs or not past or None in appends.values():
        return None
    readers = {reader.get_type_name() for node in past.values() for reader in _readers(node)}
    if not readers <= {"Concat", "ShapeOf"}:
        return None
    from openvino import Model, opset13

    rows = opset13.parameter([-1], np.int32, name=ROWS)
    rows.output(0).get_tensor().set_names({ROWS})
    batch = opset13.gather(opset13.shape_of(inputs[_POSITIONS]), np.array([0]), np.int64(0))
    _count_positions(past.values(), inputs, batch)
    sinks = [_to_state(appends[name], node, name.replace(PAST, PRESENT, 1), rows, batch) for name, node in past.items()]
    for append in appends.values():
        _broadcast_heads(append)
    _drop_checks(model)
    kept = [node for node in model.get_parameters() if node.output(0).get_any_name() not in past]
    results = [node for name, node in outputs.items() if not name.startswith(PRESENT)]
    return Model(results, sinks, [*kept, rows], model.get_friendly_name())


def cache_type(model: Any) -> Any | None:
    """Return the type of the keys and values that `model` keeps, which is that of its own cache; None if it keeps none.

    The states themselves are fp32, which NumPy reads.
    """
    states = [node for node in model.get_ordered_ops() if node.get_type_name() == "ReadValue"]
    types = {reader.get_element_type() for state in states for reader in _readers(state)}
    return types.pop() if len(types) == 1 else None


def _append(past: Any, present: Any | None) -> Any | None:
    """Return the node that joins `past` and new rows to what `present` returns."""
    source = present.input_value(0).get_node() if present is not None else None
    if source is None or source.get_type_name() != "Concat" or source.get_input_size() != 2:
        return None
    return source if source.input_value(0).get_node() == past else None


def _count_positions(past: Iterable[Any], inputs: Mapping[str, Any], batch: Any) -> None:
    """Take the number of positions in the cache from mask and positions: a state that is asked for it stays apart."""
    from openvino import opset13

    one, axis = np.array([1]), np.int64(0)
    total, new = (opset13.gather(opset13.shape_of(inputs[name]), one, axis) for name in (_MASK, _POSITIONS))
    held = opset13.subtract(total, new)
    for node in past:
        heads, width = (node.output(0).get_partial_shape()[axis].get_length() for axis in (1, 3))
        for reader in _readers(node, "ShapeOf"):
            shape = opset13.concat([batch, np.array([heads]), held, np.array([width])], 0)
            _replace(reader, opset13.convert(shape, reader.get_element_type()).output(0))


def _to_state(append: Any, past: Any, name: str, rows: Any, batch: Any) -> Any:
    """Let `append` join the rows `rows` of a state `name` and new rows; return the node that keeps the result."""
    from openvino import PartialShape, Type, opset13

    dtype, (_, heads, _, width) = past.get_element_type(), past.output(0).get_partial_shape()
    fixed = np.array([heads.get_length(), 0, width.get_length()])
    empty = opset13.broadcast(np.float32(0), opset13.concat([batch, opset13.constant(fixed)], 0))
    shape = PartialShape([-1, heads.get_length(), -1, width.get_length()])
    state = opset13.read_value(empty, name, Type.f32, shape)
    held = opset13.convert(state, dtype) if dtype != Type.f32 else state
    append.input(0).replace_source_output(opset13.gather(held, rows, np.int64(0)).output(0))
    kept = opset13.convert(append, Type.f32) if dtype != Type.f32 else append
    return opset13.assign(kept, name)


def _broadcast_heads(append: Any) -> None:
    """Replace tiles that repeat the heads of `append` ``[B, heads, P, D]`` by broadcasts, which the plugin knows."""
    from openvino import opset13

    heads, width = (append.output(0).get_partial_shape()[axis].get_length() for axis in (1, 3))
    for unsqueezed in _readers(append, "Unsqueeze"):
        for tiled in _readers(unsqueezed, "Tile"):
            for joined in _readers(tiled, "Reshape"):
                repeats = joined.output(0).get_partial_shape()[1].get_length() // heads
                single = opset13.unsqueeze(append, np.int64(2))
                repeated = opset13.broadcast(single, np.array([1, 1, repeats, 1, 1]), broadcast_spec="BIDIRECTIONAL")
                packed = opset13.reshape(repeated, np.array([0, heads * repeats, -1, width]), special_zero=True)
                _replace(joined, packed.output(0))


def _drop_checks(model: Any) -> None:
    """Remove the test for NaN behind each attention: a row whose keys are all masked stays finite in our graphs."""
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Select":
            continue
        test, attended = node.input_value(0).get_node(), node.input_value(2)
        is_test = test.get_type_name() == "IsNaN" and test.input_value(0).get_node() == attended.get_node()
        if is_test and attended.get_node().get_type_name() == "ScaledDotProductAttention":
            _replace(node, attended)


def _readers(node: Any, type_name: str = "") -> list[Any]:
    """Return the nodes of a type, or all, that read the first output of `node`."""
    readers = [port.get_node() for port in node.output(0).get_target_inputs()]
    return [each for each in readers if type_name in ("", each.get_type_name())]


def _replace(node: Any, output: Any) -> None:
    """Let the readers of `node` read `output`."""
    for port in node.output(0).get_target_inputs():
        port.replace_source_output(output)
