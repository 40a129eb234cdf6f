"""Counts of magnitudes against NumPy on the same values."""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from internvl_edge.calib.ranges.magnitudes import VALUES, Magnitudes

FINITE = st.floats(-(2.0**100), 2.0**100, width=32)
SAMPLES = arrays(np.float32, st.integers(1, 60), elements=FINITE)
BF16_RELATIVE = 2.0**-8
"""Half a unit in the last of 8 binary digits."""


def counted(*parts: np.ndarray) -> Magnitudes:
    seen = Magnitudes()
    for part in parts:
        seen.add(torch.from_numpy(part))
    return seen


def rounded(x: np.ndarray) -> np.ndarray:
    """Return the magnitudes of `x` in bf16, rising."""
    return np.sort(torch.from_numpy(x).abs().bfloat16().double().numpy())


def test_the_codes_are_every_finite_magnitude() -> None:
    wanted = torch.arange(0x7F80, dtype=torch.int16).view(torch.bfloat16).double().numpy()
    np.testing.assert_array_equal(VALUES, wanted)


@settings(max_examples=60)
@given(x=SAMPLES, thousandths=st.integers(1, 1000))
def test_a_quantile_is_the_value_of_its_rank(x: np.ndarray, thousandths: int) -> None:
    rank = math.ceil(Fraction(thousandths, 1000) * x.size)
    assert counted(x).quantile(thousandths / 10 / 100) == rounded(x)[rank - 1]


@pytest.mark.parametrize("percent", [50.0, 99.0, 99.9, 99.99])
def test_quantiles_are_those_of_numpy_within_bf16(heavy_tailed: np.ndarray, percent: float) -> None:
    wanted = np.quantile(np.abs(heavy_tailed), percent / 100, method="inverted_cdf")
    assert counted(heavy_tailed).quantile(percent / 100) == pytest.approx(wanted, rel=BF16_RELATIVE)


@settings(max_examples=60)
@given(x=SAMPLES, cuts=st.lists(st.integers(0, 60), max_size=4), order=st.randoms(use_true_random=False))
def test_merging_shards_in_any_order_is_counting_at_once(x: np.ndarray, cuts: list[int], order) -> None:  # type: ignore[no-untyped-def]
    edges = [0, *sorted(cuts), x.size]
    shards = [counted(x[start:stop]) for start, stop in pairwise(edges)]
    order.shuffle(shards)
    merged = Magnitudes()
    for shard in shards:
        before = shard.counts.copy()
        merged.merge(shard)
        np.testing.assert_array_equal(shard.counts, before)
    np.testing.assert_array_equal(merged.counts, counted(x).counts)
    assert merged.total == x.size


def test_the_range_grows_without_losing_what_is_small() -> None:
    seen = counted(np.array([1e-30, 0], np.float32), np.array([-1e30], np.float32))
    values, counts = seen.seen()
    np.testing.assert_allclose(values, [0, 1e-30, 1e30], rtol=BF16_RELATIVE)
    np.testing.assert_array_equal(counts, [1, 1, 1])
    assert seen.quantile(0.6) == values[1]
    assert seen.largest == values[2]


def test_what_is_not_finite_is_not_counted() -> None:
    seen = counted(np.array([np.nan, -np.nan, np.inf, -np.inf, -2], np.float32))
    assert (seen.total, seen.largest, seen.quantile(1.0)) == (1, 2.0, 2.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_any_type_and_layout_counts_the_same(dtype: torch.dtype) -> None:
    x = torch.tensor([[1.0, -1.0, 2.0], [0.0, -0.0, 0.5]], dtype=dtype)
    seen = Magnitudes()
    seen.add(x.T[1:])
    values, counts = seen.seen()
    np.testing.assert_array_equal(values, [0, 0.5, 1, 2])
    np.testing.assert_array_equal(counts, [1, 1, 1, 1])


@settings(max_examples=60)
@given(x=SAMPLES, share=st.floats(0.01, 1))
def test_clipping_touches_what_lies_above_and_nothing_at_the_maximum(x: np.ndarray, share: float) -> None:
    seen = counted(x)
    assert seen.share_above(float(np.abs(x).max())) == 0.0, "the maximum itself is no bf16 number"
    limit = seen.quantile(share)
    assert seen.share_above(limit) == (rounded(x) > limit).mean()
    assert seen.share_above(limit) <= 1 - share + 1e-9


def test_nothing_seen() -> None:
    seen = Magnitudes()
    assert (seen.total, seen.largest, seen.quantile(0.5), seen.share_above(0.0)) == (0, 0.0, 0.0, 0.0)
    assert seen.seen()[0].size == 0
