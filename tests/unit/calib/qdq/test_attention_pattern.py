"""Which attentions can be written out, and what is read of them."""

import math

import onnx
import onnx_ir as ir
import pytest

from internvl_edge.calib.qdq.attention_pattern import SPLIT_HEADS, TRANSPOSED, plain_attention

HEADER = '<ir_version: 11, opset_import: ["": 23]>\n'
PACKED = "g (float[b, 6, 16] q, float[b, 9, 16] k, float[b, 9, 16] v) => (float[b, 6, 16] y)"
APART = "g (float[b, 2, 6, 8] q, float[b, 2, 9, 8] k, float[b, 2, 9, 8] v) => (float[b, 2, 6, 8] y)"
MASKED = "g (float[b, 6, 16] q, float[b, 9, 16] k, float[b, 9, 16] v, float[b, 1, 6, 9] m) => (float[b, 6, 16] y)"

CACHED = APART.replace("v)", "v, float[b, 2, 3, 8] pk, float[b, 2, 3, 8] pv)")


def node(head: str, body: str) -> ir.Node:
    text = f"{HEADER}{head} {{ y = {body} }}"
    return ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text))).graph.node(0)


@pytest.mark.parametrize(
    ("head", "body", "heads", "width", "factor", "masked"),
    [
        (PACKED, "Attention<q_num_heads = 2, kv_num_heads = 2>(q, k, v)", 2, 8, 1 / math.sqrt(8), False),
        (APART, "Attention(q, k, v)", None, 8, 1 / math.sqrt(8), False),
        (MASKED, "Attention<q_num_heads = 4, kv_num_heads = 4, scale = 0.5>(q, k, v, m)", 4, 4, 0.5, True),
    ],
)
def test_a_plain_attention_is_read(
    head: str, body: str, heads: int | None, width: int, factor: float, masked: bool
) -> None:
    found = plain_attention(node(head, body))
    assert found is not None
    assert (found.heads, found.width, found.factor) == (heads, width, pytest.approx(factor))
    assert (found.mask is not None) == masked
    assert [value.name for value in found.qkv] == ["q", "k", "v"]


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (PACKED, "Attention<q_num_heads = 2, kv_num_heads = 2, is_causal = 1>(q, k, v)"),
        (PACKED, "Attention<q_num_heads = 2, kv_num_heads = 2, softcap = 30.0>(q, k, v)"),
        (PACKED, "Attention<q_num_heads = 4, kv_num_heads = 2>(q, k, v)"),
        (PACKED.replace("9, 16] v", "9, 32] v"), "Attention<q_num_heads = 2, kv_num_heads = 2>(q, k, v)"),
        (APART.replace("2, 9", "1, 9"), "Attention(q, k, v)"),
        (CACHED, "Attention(q, k, v, , pk, pv)"),
        (PACKED, "Concat<axis = 1>(q, k, v)"),
    ],
)
def test_what_the_pattern_does_not_express_stays(head: str, body: str) -> None:
    assert plain_attention(node(head, body)) is None


def test_permutations_move_heads_before_rows_and_rows_behind_channels() -> None:
    shape = ("batch", "rows", "heads", "channels")
    split = tuple(shape[axis] for axis in SPLIT_HEADS)
    assert split == ("batch", "heads", "rows", "channels")
    assert tuple(split[axis] for axis in TRANSPOSED) == ("batch", "heads", "channels", "rows")
