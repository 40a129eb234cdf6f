"""The plugins as ONNX functions of standard operators, for CPU runtimes, shape inference and readers of graphs.

The body of a function contains the values of the variant (heads, epsilon), because the attributes of a node are one
text, which a body cannot read. So a graph can have one variant of each plugin. Functions are removed from graphs for
TensorRT's builder, whose parser would inline them instead of using the plugin.
"""

import re
from collections.abc import Callable, Mapping

import onnx.parser
import onnx_ir as ir

from internvl_edge.export.canonical.opset import OPSET
from internvl_edge.export.plugins.families import FAMILIES
from internvl_edge.export.plugins.family import CODED
from internvl_edge.export.plugins.launches import KERNEL_TYPES, Constant
from internvl_edge.export.plugins.tensorrt_plugins import NAMESPACE

MASKED = -3.0e4
"""Bias of a masked score, as in the graphs (`export.models.layers`)."""

_SCALES = {family.name: family.scales for family in FAMILIES}


def function_of(plugin: str, attributes: Mapping[str, Constant]) -> ir.Function:
    """Return the function of `plugin` for a node with `attributes`.

    Raises:
        KeyError: there is no such plugin, or `attributes` lacks a number.
    """
    arguments, results, body = _BODIES[plugin.removesuffix(CODED)](attributes)
    if plugin.endswith(CODED):
        arguments, body = f"{arguments}, scales", _quantized(body, _SCALES[plugin].index("out"), str(attributes["out"]))
    declared = "plugin_namespace, plugin_version, aot, variant"
    text = f"""<domain: "{NAMESPACE}", opset_import: ["": {OPSET}]>
    {plugin} <{declared}> ({arguments}) => ({results}) {{ {body} }}"""
    return ir.serde.deserialize_function(onnx.parser.parse_function(text))


def _quantized(body: str, scale: int, kind: str) -> str:
    """Return `body` with its result quantized to type `kind`, by the element with index `scale` of input `scales`."""
    wide = re.sub(r"\bout = ", "rows_out = ", body)
    return f"""{wide}
    which_scale = Constant <value_int = {scale}> ()
    scale_wide = Gather <axis = 0> (scales, which_scale)
    scale = CastLike (scale_wide, rows_out)
    out = QuantizeLinear <output_dtype = {KERNEL_TYPES[kind].onnx}> (rows_out, scale)"""


def _norms(attributes: Mapping[str, Constant]) -> tuple[str, str, str]:
    body = f"""
    q, k, v = Split <axis = 2, num_outputs = 3> (qkv)
    q_wide = Cast <to = 1> (q)
    k_wide = Cast <to = 1> (k)
    q_squares = Mul (q_wide, q_wide)
    k_squares = Mul (k_wide, k_wide)
    axes = Constant <value_ints = [2]> ()
    q_mean = ReduceMean <keepdims = 1> (q_squares, axes)
    k_mean = ReduceMean <keepdims = 1> (k_squares, axes)
    means = Concat <axis = 2> (q_mean, k_mean)
    eps = Constant <value_float = {float(attributes["eps"]):.9e}> ()
    shifted = Add (means, eps)
    root = Sqrt (shifted)
    statistics = Reciprocal (root)"""
    return "qkv", "statistics", body


def _vit(attributes: Mapping[str, Constant]) -> tuple[str, str, str]:
    heads = attributes["heads"]
    body = f"""
    q, k, v = Split <axis = 2, num_outputs = 3> (qkv)
    of_q, of_k = Split <axis = 2, num_outputs = 2> (statistics)
    q_wide = Cast <to = 1> (q)
    k_wide = Cast <to = 1> (k)
    q_unit_wide = Mul (q_wide, of_q)
    k_unit_wide = Mul (k_wide, of_k)
    q_unit = CastLike (q_unit_wide, q)
    k_unit = CastLike (k_unit_wide, k)
    q_normed = Mul (q_unit, q_gain)
    k_normed = Mul (k_unit, k_gain)
    out = Attention <q_num_heads = {heads}, kv_num_heads = {heads}> (q_normed, k_normed, v)"""
    return "qkv, statistics, q_gain, k_gain", "out", body


def _vit_plain(attributes: Mapping[str, Constant]) -> tuple[str, str, str]:
    heads = attributes["heads"]
    body = f"""
    q, k, v = Split <axis = 2, num_outputs = 3> (qkv)
    out = Attention <q_num_heads = {heads}, kv_num_heads = {heads}> (q, k, v)"""
    return "qkv", "out", body


def _packed(attributes: Mapping[str, Constant]) -> tuple[str, str, str]:
    heads = attributes["heads"]
    return "q, k, v", "out", f"out = Attention <q_num_heads = {heads}, kv_num_heads = {heads}> (q, k, v)"


def _qllama(
    *, mask: bool, causal: bool, past: bool, kept: bool
) -> Callable[[Mapping[str, Constant]], tuple[str, str, str]]:
    """Return the function that writes the body of rotary self-attention; without a past, positions begin at 0."""

    def make(attributes: Mapping[str, Constant]) -> tuple[str, str, str]:
        heads, head_dim = attributes["heads"], attributes["head_dim"]
        lines = [
            f"per_head = Constant <value_ints = [0, 0, {3 * int(heads)}, {head_dim}]> ()",
            "split = Reshape (q, per_head)",
            "moved = Transpose <perm = [0, 2, 1, 3]> (split)",
            "q_rows, k_rows, v_rows = Split <axis = 1, num_outputs = 3> (moved)",
            "zero = Constant <value_int = 0> ()",
            "one = Constant <value_int = 1> ()",
            "first_axis = Constant <value_ints = [0]> ()",
            "second_axis = Constant <value_ints = [1]> ()",
            "rows_size = Shape <start = 1, end = 2> (q)",
            "rows_count = Squeeze (rows_size, first_axis)",
        ]
        if past:
            lines += ["places = Identity (positions)"]
        else:
            lines += [
                "batch_size = Shape <start = 0, end = 1> (q)",
                "order = Range (zero, rows_count, one)",
                "places_row = Unsqueeze (order, first_axis)",
                "places_shape = Concat <axis = 0> (batch_size, rows_size)",
                "places = Expand (places_row, places_shape)",
            ]
        lines += [
            "q_turned = RotaryEmbedding (q_rows, cos, sin, places)",
            "k_turned = RotaryEmbedding (k_rows, cos, sin, places)",
        ]
        keys, values = ("key_out", "value_out") if kept else ("keys", "values")
        if past:
            lines += [
                f"{keys} = Concat <axis = 2> (key_cache, k_turned)",
                f"{values} = Concat <axis = 2> (value_cache, v_rows)",
            ]
        else:
            lines += [f"{keys} = Identity (k_turned)", f"{values} = Identity (v_rows)"]
        bias = ""
        if mask:
            lines += _bias_lines(causal)
            bias = ", bias"
        lines += [
            f"attended = Attention (q_turned, {keys}, {values}{bias})",
            "merged = Transpose <perm = [0, 2, 1, 3]> (attended)",
            f"packed = Constant <value_ints = [0, 0, {int(heads) * int(head_dim)}]> ()",
            "out = Reshape (merged, packed)",
        ]
        inputs = ["q", "cos", "sin", *(["positions"] if past else []), *(["mask"] if mask else [])]
        inputs += ["key_cache", "value_cache"] if past else []
        return ", ".join(inputs), ", ".join([*(["key_out", "value_out"] if kept else []), "out"]), "\n".join(lines)

    return make


def _bias_lines(causal: bool) -> list[str]:
    """Return the lines of the bias: 0 for keys that count and, if `causal`, are not after the row; else `MASKED`."""
    lines = [
        "counted = Greater (mask, zero)",
        "bias_axes = Constant <value_ints = [1, 2]> ()",
        "seen = Unsqueeze (counted, bias_axes)",
    ]
    if causal:
        lines += [
            "total_size = Shape <start = 1, end = 2> (mask)",
            "total_count = Squeeze (total_size, first_axis)",
            "past_count = Sub (total_count, rows_count)",
            "columns = Range (zero, total_count, one)",
            "row_places = Range (past_count, total_count, one)",
            "row_column = Unsqueeze (row_places, second_axis)",
            "earlier = LessOrEqual (columns, row_column)",
            "visible = And (seen, earlier)",
        ]
    else:
        lines += [
            "ones = Constant <value_ints = [1, 1]> ()",
            "last = Constant <value_ints = [1]> ()",
            "every_row = Concat <axis = 0> (ones, rows_size, last)",
            "visible = Expand (seen, every_row)",
        ]
    return [
        *lines,
        "open = Constant <value_float = 0.0> ()",
        f"shut = Constant <value_float = {MASKED:.1f}> ()",
        "bias_wide = Where (visible, open, shut)",
        "bias = CastLike (bias_wide, q)",
    ]


_BODIES: Mapping[str, Callable[[Mapping[str, Constant]], tuple[str, str, str]]] = {
    "vit_norms": _norms,
    "vit_attention": _vit,
    "vit_attention_plain": _vit_plain,
    "query_cross_attention": _packed,
    "attention_pool": _packed,
    "qllama_queries": _qllama(mask=False, causal=False, past=False, kept=True),
    "qllama_text": _qllama(mask=True, causal=True, past=False, kept=False),
    "qllama_matching": _qllama(mask=True, causal=False, past=False, kept=False),
    "qllama_prompt": _qllama(mask=True, causal=True, past=True, kept=True),
}
