"""Statistics of batches: equal to those of all rows at once, however they are cut, merged or stored."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl_edge.calib.ranges import observer as module
from internvl_edge.calib.ranges.observer import (
    CURVE_POINTS,
    Observer,
    Statistics,
    from_arrays,
    merge_statistics,
    to_arrays,
)
from internvl_edge.runtime.errors import CalibrationError
from tests.unit.calib.observed import observed

FP16_STEP = 2.0**-10


@pytest.fixture
def rows(rng: np.random.Generator) -> np.ndarray:
    """Rows ``[240, 6]`` whose channels have ranges of their own."""
    return (rng.normal(size=(240, 6)) * [1, 10, 0.1, 1, 0, 3]).astype(np.float32)


def in_rows(kept: np.ndarray, rows: np.ndarray) -> list[int]:
    """Return the index in `rows` of every kept row."""
    return [int(np.flatnonzero((rows == row).all(axis=1))[0]) for row in kept]


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), cuts=st.sets(st.integers(1, 39), max_size=6))
def test_batches_add_up_to_all_rows_at_once(seed: int, cuts: set[int]) -> None:
    rows = np.random.default_rng(seed).normal(size=(40, 3)).astype(np.float32)
    found = observed(np.split(rows, sorted(cuts)))
    _same_ranges(found, observed(rows))
    np.testing.assert_array_equal(found.amax, np.abs(rows).max(axis=0))
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), atol=1e-6)
    assert found.magnitudes.total == rows.size
    assert found.token_median == np.median(np.abs(rows).max(axis=1))
    stretches = [s for part in np.split(rows, sorted(cuts)) for s in np.array_split(part, min(CURVE_POINTS, len(part)))]
    tops = [float(np.abs(part).max()) for part in stretches]
    np.testing.assert_array_equal(found.curve, np.maximum.accumulate(np.array(tops, np.float32)))


def test_kept_rows_are_rows_each_once_and_hold_the_massive_token(rows: np.ndarray) -> None:
    rows[77] *= 100  # one row in 240: evenly drawn rows would miss it
    batches = np.split(rows, 6)
    found = observed(batches, kept_per_batch=8)
    chosen = in_rows(found.rows, rows)
    assert len(chosen) == len(set(chosen)) == 48
    assert 77 in chosen
    assert [index // 40 for index in chosen] == sorted([0, 1, 2, 3, 4, 5] * 8)
    np.testing.assert_array_equal(observed(batches, kept_per_batch=8).rows, found.rows)


def test_a_batch_with_no_more_rows_than_wanted_is_kept_whole(rows: np.ndarray) -> None:
    found = observed(rows[:8], kept_per_batch=100)
    assert sorted(in_rows(found.rows, rows)) == list(range(8))


def test_rows_that_a_short_batch_lacks_are_made_up_for(rows: np.ndarray) -> None:
    assert len(observed([rows[:2], rows[2:100]], kept_per_batch=10).rows) == 20


def test_below_one_row_a_sample_every_nth_sample_gives_one(rows: np.ndarray) -> None:
    observer = Observer("layer", 0.25)
    for batch in np.split(rows, 48):
        observer.observe(torch.from_numpy(batch), 1)
    assert observer.statistics().rows.shape == (12, 6)


def test_a_row_is_kept_as_soon_as_it_is_due(rows: np.ndarray) -> None:
    observer = Observer("layer", 0.25)
    for count, batch in enumerate(np.split(rows[:40], 8), 1):
        observer.observe(torch.from_numpy(batch), 1)
        assert observer.statistics().rows.shape == (count // 4, 6)


def test_the_curve_has_eight_points_a_batch_or_one_a_row(rows: np.ndarray) -> None:
    assert observed(rows).curve.shape == (8,)
    assert observed([rows[:100], rows[100:103]]).curve.shape == (8 + 3,)


def test_of_many_values_some_are_counted_but_every_row_has_its_say_in_the_range(
    rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COUNTED_VALUES", rows.size // 4)
    rows[1] = 500  # no row that is counted: these are every fourth
    found = observed(rows)
    assert found.counted_rows == 60
    assert found.magnitudes.total == rows.size // 4
    np.testing.assert_allclose(found.mean, rows[::4].mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.amax, [500] * 6)
    assert found.token_amax == 500


def test_bf16_rows_are_taken_as_they_are(rows: np.ndarray) -> None:
    tensor = torch.from_numpy(rows).bfloat16()
    observer = Observer("layer", 4)
    observer.observe(tensor, 1)
    found = observer.statistics()
    np.testing.assert_array_equal(found.amax, tensor.float().abs().amax(dim=0))
    assert found.rows.dtype == np.float32
    np.testing.assert_allclose(found.mean, tensor.float().mean(dim=0), atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_names_the_layer(rows: np.ndarray, value: float) -> None:
    rows[3, [1, 4]] = value
    with pytest.raises(CalibrationError, match=r"^layer: NaN or infinity in 2 of 6 channels; repair"):
        observed(rows)


def test_a_layer_that_no_sample_reached_is_named() -> None:
    with pytest.raises(CalibrationError, match=r"^layer: no sample reached it; add"):
        Observer("layer", 1).statistics()


def test_merged_shards_are_one_run(rows: np.ndarray) -> None:
    batches = np.split(rows, 6)
    merged = merge_statistics([observed(batches[:1]), observed(batches[1:4]), observed(batches[4:])], 64)
    whole = observed(batches)
    _same_ranges(merged, whole)
    np.testing.assert_array_equal(merged.curve, whole.curve)
    assert np.array_equal(merged.amax, np.abs(rows).max(axis=0))


def test_a_merge_keeps_rows_of_every_shard_up_to_its_limit(rows: np.ndarray) -> None:
    shards = [observed(part) for part in np.split(rows, 3)]
    chosen = in_rows(merge_statistics(shards, 60).rows, rows)
    assert len(set(chosen)) == 60
    assert [sum(index // 80 == shard for index in chosen) for shard in range(3)] == [20, 20, 20]
    assert len(merge_statistics(shards, 1000).rows) == 240
    without = [observed(part, kept_per_batch=0) for part in np.split(rows, 3)]
    assert merge_statistics(without, 60).rows.shape == (0, 6)


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1.0, 1e20])
def test_storing_keeps_everything_and_rows_to_fp16(rows: np.ndarray, scale: float) -> None:
    seen = observed(np.split(rows * np.float32(scale), 4))
    arrays = to_arrays("vision|fc1", seen) | to_arrays("vision|fc2", observed(rows))
    found = from_arrays("vision|fc1", arrays)
    for name in ("amax", "mean", "curve"):
        np.testing.assert_array_equal(getattr(found, name), getattr(seen, name))
    np.testing.assert_array_equal(found.magnitudes.counts, seen.magnitudes.counts)
    for name in ("counted_rows", "token_amax", "token_median"):
        assert getattr(found, name) == getattr(seen, name)
    np.testing.assert_allclose(found.rows, seen.rows, rtol=FP16_STEP, atol=seen.largest * 2.0**-24)
    assert sum(array.nbytes for name, array in arrays.items() if "/c" in name) < seen.magnitudes.counts.nbytes / 4


def _same_ranges(found: Statistics, wanted: Statistics) -> None:
    np.testing.assert_array_equal(found.amax, wanted.amax)
    np.testing.assert_array_equal(found.magnitudes.counts, wanted.magnitudes.counts)
    np.testing.assert_allclose(found.mean, wanted.mean, rtol=1e-5, atol=1e-6)
    assert found.counted_rows == wanted.counted_rows
    assert found.token_amax == wanted.token_amax
    assert found.curve[-1] == wanted.curve[-1] == wanted.largest
