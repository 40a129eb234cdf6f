"""Processors of the scores of the next token, by numbers worked out by hand."""

import numpy as np
import pytest

from internvl_edge.runtime.tasks.generation.config import GenerationConfig
from internvl_edge.runtime.tasks.generation.processors import LogitsProcessors

SCORES = np.array([[2.0, -2.0, 1.0, 0.0], [1.0, 2.0, 3.0, 4.0]], np.float32)


def test_scores_are_not_copied_where_nothing_changes() -> None:
    assert LogitsProcessors(GenerationConfig(), SCORES.shape)(SCORES, 0) is SCORES


def test_repeated_ids_get_less_likely_once() -> None:
    processors = LogitsProcessors(GenerationConfig(repetition_penalty=2.0), SCORES.shape)
    for _ in range(2):
        processors.add(np.array([0, 3]))
    processors.add(np.array([1, 90]))  # 90 is a pad id beyond the vocabulary
    np.testing.assert_array_equal(processors(SCORES, 0), [[1, -4, 1, 0], [1, 2, 3, 2]])


def test_a_prompt_counts_without_its_padding() -> None:
    prompt = np.array([[-1, 0], [2, 5]])
    processors = LogitsProcessors(GenerationConfig(repetition_penalty=2.0), SCORES.shape, prompt)
    np.testing.assert_array_equal(processors(SCORES, 0), [[1, -2, 1, 0], [1, 2, 1.5, 4]])


def test_rows_keep_what_they_have_seen() -> None:
    processors = LogitsProcessors(GenerationConfig(repetition_penalty=2.0), SCORES.shape)
    processors.add(np.array([0, 3]))
    processors.select(np.array([1, 1]))
    np.testing.assert_array_equal(processors(SCORES, 0), [[2, -2, 1, 0], [1, 2, 3, 2]])


@pytest.mark.parametrize(("written", "expected"), [(1, [-np.inf, -2, -np.inf, -np.inf]), (2, [2, -2, -np.inf, 0])])
def test_ends_wait_and_forbidden_ids_never_come(written: int, expected: list[float]) -> None:
    config = GenerationConfig(eos_token_ids=(0, 3, 70), min_new_tokens=2, forbidden_ids=(2, 80))
    np.testing.assert_array_equal(LogitsProcessors(config, SCORES.shape)(SCORES, written)[0], expected)
