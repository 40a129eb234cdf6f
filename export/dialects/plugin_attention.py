"""Replace attention by nodes of our plugins, which read packed projections and write rows for the next linear."""

import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from internvl_edge.calib.qdq.node_writer import NodeWriter
from internvl_edge.export.dialects.join_heads import HeadsMatch, match_heads
from internvl_edge.export.plugins.families import FAMILIES
from internvl_edge.export.plugins.family import CODED
from internvl_edge.export.plugins.functions import function_of
from internvl_edge.export.plugins.launches import KERNEL_TYPES, Constant
from internvl_edge.export.plugins.plugin_or_pattern import Call, Choice, weigh
from internvl_edge.export.plugins.tensorrt_plugins import NAMESPACE, VERSION, node_attributes, variant_text
from internvl_edge.export.plugins.work import CODE_TYPES
from internvl_edge.runtime.errors import EngineError

logger = logging.getLogger(__name__)

_MERGED = (0, 2, 1, 3)
_TYPES = {ir.DataType(row.onnx): name for name, row in KERNEL_TYPES.items()}
_16_BITS = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_CODES = {dtype: name for dtype, name in _TYPES.items() if name in CODE_TYPES}


class PluginAttentionPass(ir.passes.InPlacePass):
    """Replace attention that a kernel supports; other attention stays, and the log has the reason.

    `sm` is the SM of the device; None replaces every attention that any kernel supports, for runs of the functions on a
    CPU. With `batch`, a plugin must also be predicted to be faster than the pattern at that batch size. `version` is
    the version of the plugins.
    """

    def __init__(self, sm: int | None = None, batch: int | None = None, version: str = VERSION) -> None:
        super().__init__()
        self._sm, self._batch, self._version = sm, batch, version
        self._weighed: dict[str, Choice] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace attention in `model`, and add the ONNX functions of the plugins used."""
        used: dict[str, str] = {}
        mixed = _is_mixed(model.graph)
        for node in [node for node in model.graph if node.op_type == "Attention"]:
            try:
                _require_known_attributes(node)
                _require_no_island(node, mixed)
                calls = _calls(model.graph, node)
                _require_usual_scale(node, calls[-1])
                for each in calls:
                    self._require_kernel(each, used)
                calls[-1] = self._with_codes(calls[-1], used)
                self._require_win(node, calls)
            except _NotServedError as reason:
                level = logging.WARNING if self._batch is None else logging.INFO  # a warning if plugins were asked for
                logger.log(level, "%s: no attention kernel: %s", node.name, reason)
                continue
            for call in calls:
                call.write(model.graph, node, self._version)
                used[call.plugin] = call.variant
                function = function_of(call.plugin, call.attributes)
                model.functions[function.identifier()] = function
        if used:
            model.graph.opset_imports[NAMESPACE] = 1
            common.RemoveUnusedNodesPass()(model)
            common.TopologicalSortPass()(model)
        return ir.passes.PassResult(model, bool(used))

    def _require_kernel(self, call: "_Call", used: Mapping[str, str]) -> None:
        if used.get(call.plugin, call.variant) != call.variant:
            raise _NotServedError(
                f"{call.plugin} is there with {used[call.plugin]}, and a graph has one variant of each"
            )
        if self._sm is None:
            return
        if reason := _FAMILIES[call.plugin].refusal(call.types(), call.attributes, self._sm):
            raise _NotServedError(reason)

    def _require_win(self, node: ir.Node, calls: Sequence["_Call"]) -> None:
        """Raise an error if the pattern is predicted to be faster; the prediction for equal attentions is cached."""
        if self._batch is None or self._sm is None:
            return
        weighed = [call.weighed(self._batch) for call in calls]
        key = repr(weighed)
        try:
            if key not in self._weighed:
                self._weighed[key] = weigh(weighed, self._sm)
        except EngineError as error:
            raise _NotServedError(str(error)) from error
        if not self._weighed[key].wins:
            raise _NotServedError(str(self._weighed[key]))
        logger.info("%s: %s", node.name, self._weighed[key])

    def _with_codes(self, call: "_Call", used: Mapping[str, str]) -> "_Call":
        """Return `call` with a quantized output if all readers quantize it alike and a kernel can, else `call`."""
        attended = call.outputs["out"]
        assert isinstance(attended, ir.Value)
        if (codes := _codes(attended)) is None:
            return call
        first, kind, scale = codes
        family = _FAMILIES[f"{call.plugin}{CODED}"]
        numbers = np.array([scale if name == "out" else 1 for name in family.scales], np.float32)
        scales = ir.Value(name=f"{attended.name}/scales", const_value=ir.tensor(numbers))
        scales.dtype, scales.shape = ir.DataType.FLOAT, ir.Shape(numbers.shape)
        coded = _Call(
            family.name,
            {**call.inputs, "scales": scales},
            {**call.attributes, "out": kind},
            {**call.outputs, "out": first},
        )
        try:
            self._require_kernel(coded, used)
        except _NotServedError as reason:
            logger.info("%s: quantized apart: %s", attended.name, reason)
            return call
        return coded


_FAMILIES = {family.name: family for family in FAMILIES}


class _NotServedError(Exception):
    """Reason why an attention is not replaced."""


class _Call:
    """One plugin node to write: inputs and outputs by the plugin's names; outputs are the values that they replace."""

    def __init__(
        self,
        plugin: str,
        inputs: Mapping[str, "ir.Value | _Made"],
        attributes: Mapping[str, Constant],
        outputs: Mapping[str, "ir.Value | _Made"],
    ) -> None:
        self.plugin, self.inputs, self.attributes, self.outputs = plugin, dict(inputs), dict(attributes), dict(outputs)

    @property
    def variant(self) -> str:
        """Return the attributes as the text of the node's ``variant``."""
        return variant_text(self.attributes)

    def types(self) -> dict[str, str]:
        """Return the type of each input, by our names of types."""
        return {name: _TYPES.get(value.dtype, str(value.dtype)) for name, value in self.inputs.items()}  # type: ignore[arg-type]

    def weighed(self, batch: int) -> Call:
        """Return the call with its sizes: `batch`, those that the graph fixes, and typical ones for the rest."""
        family = _FAMILIES[self.plugin]
        shapes = {name: value.shape for name, value in self.inputs.items()}
        fixed = {size: _fixed(shapes[tensor], axis) for size, [(tensor, axis), *_] in family.sizes.items()}
        known = {size: number for size, number in fixed.items() if number is not None}
        sizes = {**family.typical[-1], "B": batch, **{name: n for name, n in known.items() if name != "B"}}
        return Call(plugin=self.plugin, types=self.types(), attributes=self.attributes, sizes=sizes)

    def write(self, graph: ir.Graph, anchor: ir.Node, version: str) -> None:
        """Insert the node before `anchor`; its outputs replace the values in `outputs` under their names."""
        if "scales" in self.inputs:
            graph.register_initializer(self.inputs["scales"])  # type: ignore[arg-type]
        made = ir.node(
            self.plugin,
            [value.value[0] if isinstance(value, _Made) else value for value in self.inputs.values()],
            attributes=node_attributes(self.attributes, version),
            domain=NAMESPACE,
            num_outputs=len(self.outputs),
            name=f"{anchor.name or anchor.outputs[0].name}/{self.plugin}",
        )
        graph.insert_before(anchor, made)
        for value, (name, old) in zip(made.outputs, self.outputs.items(), strict=True):
            if isinstance(old, _Made):
                value.name, value.shape, value.type = f"{made.name}/{name}", old.shape, ir.TensorType(old.dtype)
                old.value.append(value)
                continue
            value.shape, value.type = old.shape, ir.TensorType(old.dtype or ir.DataType.FLOAT)
            known, quantizer = old.name, old.producer()
            if quantizer is not None and quantizer.op_type == "QuantizeLinear":
                for other in list(_given(quantizer.inputs[0]).consumers()):
                    other.outputs[0].replace_all_uses_with(value)  # all readers quantize alike
            old.replace_all_uses_with(value, replace_graph_outputs=True)
            old.name, value.name = f"{known}/apart", known


class _Made:
    """Output that only the next call reads; `value` holds the value once the node is written."""

    def __init__(self, shape: ir.Shape, dtype: ir.DataType) -> None:
        self.shape, self.dtype = shape, dtype
        self.value: list[ir.Value] = []


def _fixed(shape: ir.Shape | None, axis: int) -> int | None:
    """Return the size of an axis if the graph fixes it, else None."""
    size = shape[axis] if shape is not None else None
    return size if isinstance(size, int) else None


def _require_known_attributes(node: ir.Node) -> None:
    """Raise an error for attributes that kernels do not support, such as ``softcap`` or ``is_causal``."""
    if others := set(node.attributes) - {"q_num_heads", "kv_num_heads", "scale"}:
        raise _NotServedError(f"it has {', '.join(sorted(others))}")
    if len(node.outputs) != 1 or any(value is not None for value in node.inputs[4:]):
        raise _NotServedError("it has a cache of its own, or gives more than what was attended")


def _require_no_island(node: ir.Node, mixed: bool) -> None:
    """Raise an error for an attention that a 16-bit graph keeps in fp32, since kernels compute it in 16 bits."""
    if mixed and any(value is not None and value.dtype == ir.DataType.FLOAT for value in node.inputs[:3]):
        raise _NotServedError("it is kept in fp32, since values of it overflow 16 bits")


def _is_mixed(graph: ir.Graph) -> bool:
    """Return whether a graph has 16-bit values."""
    return any(value.dtype in _16_BITS for node in graph for value in node.outputs)


def _require_usual_scale(node: ir.Node, call: _Call) -> None:
    usual = int(call.attributes["head_dim"]) ** -0.5
    if not math.isclose(scale := node.attributes.get_float("scale", usual), usual, rel_tol=1e-5):
        raise _NotServedError(f"its scale is {scale:g}, kernels have 1/sqrt(D), {usual:g}")


def _codes(attended: ir.Value) -> tuple[ir.Value, str, float] | None:
    """Return codes, type and scale of `attended` if all its readers quantize it by this type and scale, else None."""
    found = [_quantizer(node) for node in attended.consumers()]
    if attended.is_graph_output() or not found or any(one is None for one in found):
        return None
    first, kind, scale = found[0] or (None, "", 0.0)
    if first is None or any(one is None or one[1:] != (kind, scale) for one in found):
        return None
    return first, kind, scale


def _quantizer(node: ir.Node) -> tuple[ir.Value, str, float] | None:
    """Return codes, type and scale of a node that quantizes symmetrically by one scale, or None."""
    if node.op_type != "QuantizeLinear" or any(value.is_graph_output() for value in node.outputs):
        return None
    scale = ir.convenience.get_const_tensor(_given(node.inputs[1]))
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    nought = ir.convenience.get_const_tensor(zero) if zero is not None else None
    if scale is None or scale.size != 1 or nought is None or nought.numpy().astype(np.float32).any():
        return None
    kind = _CODES.get(nought.dtype)
    return (node.outputs[0], kind, float(scale.numpy().astype(np.float32).reshape(()))) if kind is not None else None


def _calls(graph: ir.Graph, node: ir.Node) -> list[_Call]:
    """Return the calls that replace `node`, in order.

    Raises:
        _NotServedError: there is no plugin for this form of attention.
    """
    if (match := match_heads(node)) is None:
        return [_on_other_rows(node)]
    if match.rotary is not None:
        return [_on_rotated_rows(graph, node, match)]
    return _on_packed_rows(graph, node, match)


def _on_packed_rows(graph: ir.Graph, node: ir.Node, match: HeadsMatch) -> list[_Call]:
    """Return the calls for a tower's attention; with norms of q and k, the first computes their statistics."""
    packed = match.packed
    if packed is None or len(node.inputs) > 3:
        raise _NotServedError("q, k and v are no parts of one product, or a mask is added")
    attributes = _head_attributes(match)
    if match.between is None:
        return [_Call("vit_attention_plain", {"qkv": packed}, attributes, {"out": node.outputs[0]})]
    norm_q, norm_k = match.between
    epsilons = {norm.attributes.get_float("epsilon", 1e-5) for norm in match.between}
    if len(epsilons) > 1 or packed.shape is None:
        raise _NotServedError("the norms of q and k differ")
    width = int(attributes["heads"]) * int(attributes["head_dim"])
    statistics = _Made(ir.Shape([*list(packed.shape)[:2], 2]), ir.DataType.FLOAT)
    rows = _Call("vit_norms", {"qkv": packed}, {"width": width, "eps": epsilons.pop()}, {"statistics": statistics})
    gains = {"q_gain": _given(norm_q.inputs[1]), "k_gain": _given(norm_k.inputs[1])}
    inputs: dict[str, ir.Value | _Made] = {"qkv": packed, "statistics": statistics, **gains}
    return [rows, _Call("vit_attention", inputs, attributes, {"out": node.outputs[0]})]


def _on_rotated_rows(graph: ir.Graph, node: ir.Node, match: HeadsMatch) -> _Call:
    """Return the call for QLLaMA's self-attention; mask and cache determine the plugin."""
    rotary, (_, keys, values) = match.rotary, match.per_head
    assert rotary is not None
    cos, sin, positions = (_given(value) for value in rotary.inputs[1:4])
    attended = _merged(node)
    past = _past(node)
    mask, causal = _mask(node)
    family = _role(past, mask, causal)
    inputs: dict[str, ir.Value | _Made] = {"q": _packed(graph, node, match), "cos": cos, "sin": sin}
    outputs: dict[str, ir.Value | _Made] = {"out": attended}
    if past is not None:
        keys, values = _given(node.inputs[1]), _given(node.inputs[2])
        inputs["positions"] = positions
    if mask is not None:
        inputs["mask"] = mask
    if past is not None:
        inputs |= {"key_cache": past[0], "value_cache": past[1]}
    if family in ("qllama_queries", "qllama_prompt"):
        outputs = {"key_out": keys, "value_out": values, **outputs}
    elif any(value.is_graph_output() for value in (keys, values)):
        raise _NotServedError("its keys and values are kept, and it is masked")
    return _Call(family, inputs, _head_attributes(match), outputs)


def _role(past: object, mask: object, causal: bool) -> str:
    roles = {
        (False, False, False): "qllama_queries",
        (False, True, True): "qllama_text",
        (False, True, False): "qllama_matching",
        (True, True, True): "qllama_prompt",
    }
    if (found := roles.get((past is not None, mask is not None, causal))) is None:
        raise _NotServedError("no kernel has its mask and cache")
    return found


def _on_other_rows(node: ir.Node) -> _Call:
    """Return the call for packed queries on other rows: cross-attention, or attention pooling by one query."""
    heads = node.attributes.get_int("q_num_heads", 0)
    if not heads or heads != node.attributes.get_int("kv_num_heads", 0) or len(node.inputs) != 3:
        raise _NotServedError("q, k and v are not packed, or a mask is added")
    q, k, v = (_given(value) for value in node.inputs)
    width = q.shape[2] if q.shape is not None and len(q.shape) == 3 else None
    if not isinstance(width, int) or any(value.shape is None or value.shape[2] != width for value in (k, v)):
        raise _NotServedError("widths of q, k and v are not known, or differ")
    plugin = "attention_pool" if q.shape is not None and q.shape[1] == 1 else "query_cross_attention"
    attributes: dict[str, Constant] = {"heads": heads, "head_dim": width // heads}
    if plugin == "attention_pool":
        attributes["splits"] = 1
    return _Call(plugin, {"q": q, "k": k, "v": v}, attributes, {"out": node.outputs[0]})


def _head_attributes(match: HeadsMatch) -> dict[str, Constant]:
    shape = match.rows[0].shape
    assert shape is not None
    width = shape[2]
    assert isinstance(width, int)
    return {"heads": match.heads, "head_dim": width // match.heads}


def _packed(graph: ir.Graph, node: ir.Node, match: HeadsMatch) -> ir.Value:
    """Return packed q, k and v: the product whose parts they are, or else a Concat of three products."""
    if match.packed is not None:
        return match.packed
    attributes = _head_attributes(match)
    width = 3 * int(attributes["heads"]) * int(attributes["head_dim"])
    packed = NodeWriter(graph, node).op("Concat", list(match.rows), "qkv", axis=2)
    packed.shape = ir.Shape([*list(match.rows[0].shape or ())[:2], width])
    return packed


def _merged(node: ir.Node) -> ir.Value:
    """Return the output of `node` with merged heads, ``[B, N, H*D]``; a packed attention writes it itself."""
    if "q_num_heads" in node.attributes:
        return node.outputs[0]
    transpose = _only_reader(node.outputs[0], "Transpose")
    if transpose is None or tuple(transpose.attributes.get_ints("perm", ())) != _MERGED:
        raise _NotServedError("its heads are not merged behind it")
    if (reshape := _only_reader(transpose.outputs[0], "Reshape")) is None:
        raise _NotServedError("its heads are not merged behind it")
    return reshape.outputs[0]


def _only_reader(value: ir.Value, op_type: str) -> ir.Node | None:
    readers = list(value.consumers())
    return readers[0] if len(readers) == 1 and readers[0].op_type == op_type else None


def _past(node: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """Return the cached keys and values in front of the new ones, or None."""
    concats = [_given(value).producer() for value in node.inputs[1:3]]
    if any(made is None or made.op_type != "Concat" for made in concats):
        return None
    keys, values = (_given(made.inputs[0]) for made in concats if made is not None)
    return keys, values


def _mask(node: ir.Node) -> tuple[ir.Value | None, bool]:
    """Return the integers ``[B, total]`` that are above 0 for keys that count, or None, and whether it is causal."""
    if len(node.inputs) < 4 or node.inputs[3] is None:
        return None, False
    comparisons: list[ir.Node] = []
    waiting, seen = [_given(node.inputs[3])], set()
    while waiting:
        made = waiting.pop().producer()
        if made is None or made in seen:
            continue
        seen.add(made)
        if made.op_type in ("Greater", "LessOrEqual"):
            comparisons.append(made)
            continue
        waiting += [value for value in made.inputs if value is not None]
    masks = [_given(made.inputs[0]) for made in comparisons if made.op_type == "Greater"]
    if len(masks) != 1:
        raise _NotServedError("its mask is made in a way that is not known")
    return masks[0], any(made.op_type == "LessOrEqual" for made in comparisons)


def _given(value: ir.Value | None) -> ir.Value:
    assert value is not None
    return value
