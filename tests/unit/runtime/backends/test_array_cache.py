"""The cache of arrays: what the caller gave stays as it was, and only what must move does."""

from collections.abc import Mapping

import numpy as np
import pytest

from internvl_edge.runtime.backends.array_cache import ArrayCache, move_rows
from internvl_edge.runtime.stages import Stages


def appended(inputs: Mapping[str, np.ndarray], stages: Stages) -> dict[str, np.ndarray]:
    """Return what a decoder would that appends the ids as keys, whose sum is its logits."""
    new = inputs["input_ids"][:, None, :, None].astype(np.float32)
    keys = np.concatenate([inputs["past_key_values.0.key"], new], axis=2)
    return {"logits": keys.sum((1, 3)), "present.0.key": keys}


@pytest.fixture
def present(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"present.0.key": rng.normal(size=(2, 1, 4, 1)).astype(np.float32)}


def test_what_the_caller_gave_is_never_written_to(present: Mapping[str, np.ndarray]) -> None:
    before = present["present.0.key"].copy()
    cache = ArrayCache(appended, present)
    cache.select(np.array([1, 0]), shared=0)
    logits = cache.step({"input_ids": np.array([[5], [6]])})
    np.testing.assert_array_equal(logits, np.concatenate([before[::-1], [[[[5]]], [[[6]]]]], axis=2)[:, 0, :, 0])
    cache.select(np.array([0, 0]), shared=0)
    np.testing.assert_array_equal(present["present.0.key"], before)


def test_another_number_of_rows_is_a_new_cache(present: Mapping[str, np.ndarray]) -> None:
    cache = ArrayCache(appended, present)
    cache.step({"input_ids": np.array([[5], [6]])})
    cache.select(np.array([0, 0, 1]), shared=5)
    logits = cache.step({"input_ids": np.array([[1], [2], [3]])})
    np.testing.assert_array_equal(logits[:, 4:], [[5, 1], [5, 2], [6, 3]])


def test_only_rows_that_change_move_and_only_behind_what_is_shared(rng: np.random.Generator) -> None:
    values = rng.normal(size=(4, 1, 5, 2))
    values[:, :, :2] = values[:1, :, :2]
    expected = values[[1, 0, 2, 2]]
    move_rows(values, np.array([1, 0, 2, 2]), shared=2)
    np.testing.assert_array_equal(values, expected)
    values[0, :, :2] = 7  # would be seen in row 1 if the shared part moved
    move_rows(values, np.array([0, 0, 2, 3]), shared=2)
    assert not (values[1, :, :2] == 7).any()
    np.testing.assert_array_equal(values[1, :, 2:], values[0, :, 2:])


def test_the_first_positions_are_kept(present: Mapping[str, np.ndarray]) -> None:
    before = present["present.0.key"].copy()
    cache = ArrayCache(appended, present)
    cache.truncate(2)
    cache.step({"input_ids": np.array([[5, 7], [6, 8]])})
    cache.truncate(3)
    cache.reserve(2, 100)
    logits = cache.step({"input_ids": np.array([[1], [2]])})
    np.testing.assert_array_equal(logits, np.concatenate([before[:, 0, :2, 0], [[5, 1], [6, 2]]], axis=1))
    np.testing.assert_array_equal(present["present.0.key"], before)
