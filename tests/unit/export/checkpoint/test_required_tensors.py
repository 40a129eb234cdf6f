"""Accounting for every tensor, and the count of NaN and infinity against NumPy."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from internvl_edge.export.checkpoint.files.tensors import LazyTensor, MergedTensor
from internvl_edge.export.checkpoint.required_tensors import non_finite, require_tensors
from internvl_edge.runtime.errors import CheckpointError

EXPECTED = {"a": (2, 3), "b": (4,), "c": ()}


def test_a_complete_checkpoint_passes() -> None:
    require_tensors({name: _lazy(name, shape) for name, shape in EXPECTED.items()}, EXPECTED)


def test_all_that_is_wrong_is_said_at_once() -> None:
    tensors = {"a": _lazy("a", (3, 2)), "b": _lazy("b", (4,), "int64"), "stray": _lazy("stray", (1,))}
    with pytest.raises(CheckpointError) as caught:
        require_tensors(tensors, EXPECTED)
    message = str(caught.value)
    assert "1 missing: c" in message
    assert "1 unexpected: stray" in message
    assert "1 misshapen: a [3, 2] instead of [2, 3]" in message
    assert "1 not float: b int64" in message
    assert "\n" not in message


def test_a_long_list_is_cut_and_counted() -> None:
    with pytest.raises(CheckpointError, match=r"20 missing: w0, w1, .*w7 and 12 more;"):
        require_tensors({}, {f"w{i}": (1,) for i in range(20)})


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_float_types_pass(dtype: str) -> None:
    require_tensors({"a": _lazy("a", (1,), dtype)}, {"a": (1,)})


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "int8", "complex64", "bool"])
def test_other_types_do_not(dtype: str) -> None:
    with pytest.raises(CheckpointError, match=f"1 not float: a {dtype}"):
        require_tensors({"a": _lazy("a", (1,), dtype)}, {"a": (1,)})


def test_a_lora_adapter_of_another_shape_is_named() -> None:
    base, down, up = _lazy("w", (6, 4)), _lazy("d", (2, 5)), _lazy("u", (6, 2))
    merged = MergedTensor(name="w", base=base, down=down, up=up, scale=2.0)
    with pytest.raises(CheckpointError, match="1 with a LoRA adapter of another shape: w"):
        require_tensors({"w": merged}, {"w": (6, 4)})


@given(hnp.arrays(st.sampled_from([np.uint16, np.uint32, np.uint64]), st.integers(0, 64)))
def test_non_finite_counts_as_numpy_does_on_any_bits(bits: np.ndarray) -> None:
    floats = {2: np.float16, 4: np.float32, 8: np.float64}[bits.itemsize]
    values = bits.view(floats)
    assert non_finite(torch.from_numpy(values)) == np.count_nonzero(~np.isfinite(values))


@given(hnp.arrays(np.uint16, st.integers(0, 64)))
def test_non_finite_counts_bfloat16_as_the_fp32_that_it_heads(bits: np.ndarray) -> None:
    values = (bits.astype(np.uint32) << 16).view(np.float32)
    assert non_finite(torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)) == np.count_nonzero(
        ~np.isfinite(values)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_each_kind_of_bad_value_counts_and_the_largest_number_does_not(dtype: torch.dtype, bad: float) -> None:
    values = torch.full((100,), torch.finfo(dtype).max, dtype=dtype)
    values[1::2] = torch.finfo(dtype).min
    assert non_finite(values) == 0
    values[[3, 50, 99]] = bad
    assert non_finite(values) == 3


def _lazy(name: str, shape: tuple[int, ...], dtype: str = "float32") -> LazyTensor:
    return LazyTensor(name=name, dtype=dtype, shape=shape, file=Path("w"), offset=0, nbytes=0)
