"""Codes that share bytes lie as ONNX lays them."""

import numpy as np
import onnx.helper
import onnx.numpy_helper
import pytest
from onnx import TensorProto

from internvl_edge.runtime.numbers.packing import packed, unpacked
from internvl_edge.runtime.numbers.tensor_types import INT4, INT8

CODES = np.arange(-8, 8, dtype=np.int8).reshape(2, 8)


def test_the_first_of_two_lies_in_the_lower_half_of_a_byte() -> None:
    np.testing.assert_array_equal(packed(np.array([1, -1, -8, 7], np.int8), INT4), [0xF1, 0x78])


def test_onnx_reads_what_was_packed() -> None:
    tensor = onnx.helper.make_tensor("x", TensorProto.INT4, CODES.shape, packed(CODES, INT4).tobytes(), raw=True)
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor).astype(np.int8), CODES)


def test_unpacked_they_are_the_same_codes() -> None:
    assert packed(CODES, INT4).shape == (2, 4)
    np.testing.assert_array_equal(unpacked(packed(CODES, INT4), INT4), CODES)


def test_codes_of_a_byte_stay_as_they_are() -> None:
    whole = np.array([[-128, 127], [0, -1]], np.int8)
    np.testing.assert_array_equal(packed(whole, INT8).view(np.int8), whole)
    np.testing.assert_array_equal(unpacked(packed(whole, INT8), INT8), whole)


def test_a_last_axis_that_leaves_half_a_byte_is_refused() -> None:
    with pytest.raises(ValueError, match="2 values share a byte"):
        packed(np.zeros((2, 3), np.int8), INT4)
