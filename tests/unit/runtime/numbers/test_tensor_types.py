"""One row for each type of tensor: its names are those that the libraries themselves have."""

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
import safetensors
import torch
from safetensors.torch import save

from internvl_edge.runtime.numbers.tensor_types import BFLOAT16, FLOAT16, INT4, INT8, TENSOR_TYPES, TensorType

every = pytest.mark.parametrize("row", TENSOR_TYPES.values(), ids=list(TENSOR_TYPES))
of_torch = pytest.mark.parametrize("row", [row for row in TENSOR_TYPES.values() if row.torch], ids=lambda row: row.name)


@every
def test_the_onnx_number_is_that_of_a_type_with_as_many_bits(row: TensorType) -> None:
    found = ir.DataType(row.onnx)
    assert found.bitwidth == row.bits
    assert found.numpy().name == row.name


@every
def test_what_holds_the_values_has_the_bits_of_one_or_of_several(row: TensorType) -> None:
    assert np.dtype(row.stored).itemsize * 8 == row.bits * row.per_byte
    if hasattr(ml_dtypes, row.name) and row.per_byte == 1:
        assert np.dtype(row.stored).itemsize == np.dtype(getattr(ml_dtypes, row.name)).itemsize


@of_torch
def test_safetensors_calls_a_torch_tensor_so(row: TensorType) -> None:
    made = save({"x": torch.zeros(3).to(getattr(torch, row.torch))})
    [(_, entry)] = safetensors.deserialize(made)
    assert (entry["dtype"], len(entry["data"])) == (row.safetensors, row.nbytes([3]))


def test_no_two_rows_share_a_name() -> None:
    for names in (
        [row.short for row in TENSOR_TYPES.values()],
        [row.onnx for row in TENSOR_TYPES.values()],
        [row.safetensors for row in TENSOR_TYPES.values() if row.torch],
        [row.plan for row in TENSOR_TYPES.values() if row.plan],
    ):
        assert len(names) == len(set(names))


def test_bytes_and_shape_by_hand() -> None:
    assert (INT8.nbytes([2, 3]), FLOAT16.nbytes([2, 3]), FLOAT16.nbytes([])) == (6, 12, 2)
    assert (INT4.nbytes([2, 4]), INT4.nbytes([3]), INT4.per_byte) == (4, 2, 2)
    assert INT4.stored_shape([6, 32]) == (6, 16)
    assert BFLOAT16.stored_shape([6, 32]) == (6, 32)
    with pytest.raises(ValueError, match="int4 \\[6, 3\\]: 2 values share a byte along the last axis"):
        INT4.stored_shape([6, 3])


def test_largest_numbers_are_those_of_the_types_themselves() -> None:
    bounded = {row.name: row.largest for row in TENSOR_TYPES.values() if np.isfinite(row.largest)}
    assert list(bounded) == ["float16", "bfloat16", "float8_e4m3fn", "float4_e2m1fn"]
    assert bounded == {name: float(ml_dtypes.finfo(name).max) for name in bounded}
