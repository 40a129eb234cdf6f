"""Arrays in the types that a graph declares."""

import numpy as np
import pytest

from internvl_edge.runtime.bundle.declared_types import (
    arrays_as_declared,
    as_declared,
    bfloat16_bits,
    bfloat16_from_bits,
    rounded_to_bfloat16,
)
from internvl_edge.runtime.bundle.manifest import TensorSpec


def test_bfloat16_rounds_to_the_nearest_and_of_two_to_the_even() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 1 << 32, 100_000, dtype=np.uint64).astype(np.uint32)
    values = np.concatenate([bits.view(np.float32), np.array([0, -0.0, np.inf, -np.inf, 3.4e38, 1e-45], np.float32)])
    finite = values[~np.isnan(values)]
    wanted = finite.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(rounded_to_bfloat16(finite), wanted.astype(np.float32))
    np.testing.assert_array_equal(bfloat16_bits(finite), wanted.view(np.uint16))
    np.testing.assert_array_equal(bfloat16_from_bits(wanted.view(np.uint16)), wanted.astype(np.float32))
    assert np.isnan(rounded_to_bfloat16(values[np.isnan(values)])).all()


def test_a_tie_goes_to_the_even_number() -> None:
    values = np.array([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20], np.float32)
    assert rounded_to_bfloat16(values).tolist() == [1.0, 1 + 2**-6, 1 + 2**-7]


def test_floats_take_the_declared_width_and_nothing_else_changes() -> None:
    values = np.array([1 / 3, 1e6], np.float32)
    half = as_declared(values, "float16")
    assert half.dtype == np.float16
    assert half.tolist() == [float(np.float16(1 / 3)), np.inf]  # as on a device
    assert as_declared(values, "float32") is values
    ids = np.array([1], np.int32)
    assert as_declared(ids, "float16") is ids
    assert as_declared(values, "int64") is values  # the session says that this is wrong
    assert as_declared(values, "bfloat16").dtype == np.float32


def test_tensors_without_a_declaration_stay_as_they_are() -> None:
    arrays = {"a": np.ones(1, np.float32), "b": np.ones(1, np.float32)}
    typed = arrays_as_declared(arrays, (TensorSpec(name="a", dtype="float16", shape=(1,)),))
    assert [array.dtype for array in typed.values()] == [np.float16, np.float32]
