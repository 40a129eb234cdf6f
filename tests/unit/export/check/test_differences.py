"""How far two tensors are apart, and where a chain of blocks is said to diverge."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from internvl_edge.export.check.differences import MARGIN_DB, Difference, difference, divergence


def block(name: str, sqnr_db: float) -> Difference:
    return Difference(name=name, cosine=1.0, sqnr_db=sqnr_db, max_abs=0.0)


def blocks(*levels: float) -> Sequence[Difference]:
    return [block(f"layers.{index}", level) for index, level in enumerate(levels)]


class TestDifference:
    def test_against_the_definitions(self, rng: np.random.Generator) -> None:
        reference = rng.normal(size=(3, 5, 8)).astype(np.float32)
        other = (reference + 0.01 * rng.normal(size=reference.shape)).astype(np.float32)
        found = difference("x", other, reference)
        a, b = other.ravel().astype(np.float64), reference.ravel().astype(np.float64)
        assert found.sqnr_db == pytest.approx(10 * np.log10(b @ b / ((a - b) @ (a - b))))
        assert found.max_abs == np.abs(a - b).max()
        assert found.cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    def test_rows_that_do_not_count_may_hold_anything(self, rng: np.random.Generator) -> None:
        reference = rng.normal(size=(2, 4, 8))
        other = reference.copy()
        other[0, 3], other[1, 2:] = np.nan, 1e30
        rows = np.array([[True, True, True, False], [True, True, False, False]])
        assert difference("x", other, reference, rows).sqnr_db == math.inf

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_what_is_not_finite_is_as_far_as_can_be(self, value: float) -> None:
        found = difference("x", np.array([[1.0, value]]), np.ones((1, 2)))
        assert found.sqnr_db == -math.inf
        assert math.isnan(found.cosine)

    def test_fp16_is_summed_without_overflow(self) -> None:
        large = np.full((1, 4096), 60000, np.float16)
        assert difference("x", large, large - np.float16(32)).sqnr_db == pytest.approx(20 * np.log10(59968 / 32))


class TestDivergence:
    def test_the_first_block_below_the_threshold(self) -> None:
        found = divergence("vision", blocks(60, 30, 15, 10), [block("out", 9)], 20)
        assert found is not None
        assert (found.place, found.below, found.sqnr_db) == ("layers.2", True, 15)

    def test_the_culprit_is_the_largest_drop_up_to_there(self) -> None:
        found = divergence("vision", blocks(60, 21, 19, 2), [], 20)
        assert found is not None
        assert (found.place, found.steepest) == ("layers.2", "layers.1")
        assert found.drop_db == pytest.approx(20 + MARGIN_DB - 21)
        assert found.keep_high == ("layers.1.*",)

    def test_an_output_below_when_no_block_is(self) -> None:
        found = divergence("decoder", blocks(60, 50), [block("logits", 5)], 20)
        assert found is not None
        assert (found.place, found.below, found.steepest) == ("logits", True, None)
        assert found.keep_high == ("qllama.lm_head",)

    def test_nothing_below_names_the_largest_drop(self) -> None:
        found = divergence("vision", blocks(60, 28, 27), [], 20)
        assert found is not None
        assert (found.place, found.below) == ("layers.1", False)

    def test_no_difference_worth_a_name(self) -> None:
        assert divergence("vision", blocks(60, 50, 45), [block("out", 44)], 20) is None

    def test_the_first_of_two_broken_blocks(self) -> None:
        found = divergence("vision", blocks(40, -math.inf, -math.inf), [], 20)
        assert found is not None
        assert (found.place, found.steepest) == ("layers.1", "layers.1")
