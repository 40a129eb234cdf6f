"""The wire format against the package onnx, and what is no protobuf at all."""

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_edge.runtime.backends.lowering.protobuf import Message


def test_a_message_that_is_not_changed_keeps_its_bytes() -> None:
    text = '<ir_version: 10, opset_import: ["": 23]> g (float[2] x) => (float[2] y) { y = Neg(x) }'
    model = onnx.parser.parse_model(text)
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("alpha", 0.5))
    data = model.SerializeToString()
    assert Message.parse(data).encode() == data


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_integers_keep_their_sign_packed_or_not(values: list[int]) -> None:
    tensor = onnx.TensorProto(dims=values, int64_data=values)
    message = Message.parse(tensor.SerializeToString())
    assert message.integers(1) == values  # dims: one field each
    assert message.integers(7) == values  # int64_data: packed
    message.put(1, *values)
    assert list(onnx.TensorProto.FromString(message.encode()).dims) == values


def test_what_is_put_replaces_all_of_its_number() -> None:
    message = Message()
    message.put(1, "a", "b")
    message.put(2, 7)
    message.put(1, "c")
    assert (message.texts(1), message.integer(2), message.integer(3, default=5)) == (["c"], 7, 5)


@pytest.mark.parametrize("data", [b"\x0a\x05ab", b"\x0a", b"\x08\x80", b"\x0b", b"\x0d\x00"])
def test_a_broken_message_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"ends within a field|longer than what holds it|wire type 3"):
        Message.parse(data)
