"""Read layer times from OpenVINO's performance counters, and the layers' tensors from the graph that it executes."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from internvl_edge.runtime.backends.layer_times.layers import LayerTensor, LayerTime

_MS_PER_S = 1e3
_CONSTANT, _INPUT = "Const", "Parameter"


def layers_of_runs(runs: Sequence[Sequence[Any]], model: Any, outputs: Sequence[str]) -> list[LayerTime]:
    """Return the layers that ran, in order, from the profiling of each run; layers fused into others did not run.

    `model` is the graph as it is executed, `outputs` the names of its results in order. OpenVINO counts a layer as not
    run if it took less than a microsecond, so that it is enough if a layer ran in one of the runs.
    """
    layers = list(zip(*runs, strict=True))
    nodes = list(_nodes_of([layer[0].node_name for layer in layers], model))
    ran = [any(run.status == run.Status.EXECUTED for run in layer) for layer in layers]
    executed = {node.get_name() for node, done in zip(nodes, ran, strict=True) if node is not None and done}
    tensors = _Tensors(model, executed, outputs)
    return [
        LayerTime(
            name=layer[0].node_name,
            op=layer[0].node_type,
            tactic=layer[0].exec_type,
            times_ms=tuple(run.real_time.total_seconds() * _MS_PER_S for run in layer),
            inputs=tensors.inputs(node),
            weights=tensors.weights(node),
            outputs=tensors.outputs(node),
        )
        for layer, node, done in zip(layers, nodes, ran, strict=True)
        if done
    ]


def _nodes_of(names: Sequence[str], model: Any) -> Iterator[Any]:
    """Yield the node of each name, or None. Nodes of one name are distinguished by the order of execution."""
    waiting: dict[str, list[Any]] = {}
    for node in sorted(model.get_ordered_ops(), key=_order):
        waiting.setdefault(node.get_friendly_name(), []).append(node)
    for name in names:
        yield waiting[name].pop(0) if waiting.get(name) else None


class _Tensors:
    """The inputs and outputs of the nodes of an executed graph, looking through nodes that do not run."""

    def __init__(self, model: Any, executed: set[str], outputs: Sequence[str]) -> None:
        self._executed = executed
        self._known: dict[tuple[str, int], list[Any]] = {}
        called = Counter(node.get_friendly_name() for node in model.get_ordered_ops())
        self._shared = {name for name, count in called.items() if count > 1}
        self._results = {}
        for result, name in zip(model.get_results(), outputs, strict=True):
            for port in self._origins(result.input(0).get_source_output()):
                self._results[_place(port)] = name

    def inputs(self, node: Any) -> tuple[LayerTensor, ...]:
        """Return the tensors that a node reads from other nodes and from the caller."""
        return tuple(self._tensor(port) for port in self._read(node) if not _is_constant(port))

    def weights(self, node: Any) -> tuple[LayerTensor, ...]:
        """Return the constants that a node reads."""
        return tuple(self._tensor(port) for port in self._read(node) if _is_constant(port))

    def outputs(self, node: Any) -> tuple[LayerTensor, ...]:
        """Return the tensors that a node writes."""
        return () if node is None else tuple(self._tensor(port) for port in node.outputs())

    def _read(self, node: Any) -> list[Any]:
        sources = () if node is None else [each.get_source_output() for each in node.inputs()]
        return [port for source in sources for port in self._origins(source)]

    def _origins(self, port: Any) -> list[Any]:
        """Return the origins of `port`: outputs of nodes that ran, inputs of the graph, and constants."""
        place = _place(port)
        if place not in self._known:
            node = port.get_node()
            is_origin = node.get_name() in self._executed or node.get_type_name() == _INPUT or _is_constant(port)
            handed = () if is_origin else [self._origins(each.get_source_output()) for each in node.inputs()]
            found = {_place(origin): origin for origins in handed for origin in origins}
            self._known[place] = [port] if is_origin else list(found.values())
        return self._known[place]

    def _tensor(self, port: Any) -> LayerTensor:
        shape = tuple(size.get_length() if size.is_static else -1 for size in port.get_partial_shape())
        return LayerTensor(self._name(port), port.get_element_type().get_type_name(), shape)

    def _name(self, port: Any) -> str:
        node = port.get_node()
        name = str(node.get_friendly_name())
        if node.get_type_name() == _INPUT:
            return name
        if name in self._shared:
            name = f"{name} ({node.get_name()})"
        default = name + (f":{port.get_index()}" if len(node.outputs()) > 1 else "")
        return self._results.get(_place(port), default)


def _order(node: Any) -> int:
    info = node.get_rt_info()
    return int(info["execOrder"].value) if "execOrder" in info else -1


def _place(port: Any) -> tuple[str, int]:
    return port.get_node().get_name(), port.get_index()


def _is_constant(port: Any) -> bool:
    node = port.get_node()
    if node.get_type_name() == "Constant":
        return True
    info = node.get_rt_info()
    return "layerType" in info and str(info["layerType"].value) == _CONSTANT
