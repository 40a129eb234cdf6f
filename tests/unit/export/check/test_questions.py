"""Prompts of a chat for verification: ids around the embeddings of a tile, padded on the left."""

import numpy as np

from internvl_edge.export.check.questions import MOST_OF_A_TILE, questions_of, seeded_questions


def rows_of(ids: np.ndarray) -> np.ndarray:
    return np.repeat(ids[..., None], 3, axis=2).astype(np.float32)


def test_shorter_prompts_are_padded_on_the_left() -> None:
    found = questions_of([([7, 8], [9]), ([5], [6])], 2, rows_of)
    assert found.ids.tolist() == [[7, 8, 0, 0, 9], [0, 5, 0, 0, 6]]
    assert found.counts.tolist() == [[True] * 5, [False, True, True, True, True]]
    assert found.tiles.tolist() == [[False, False, True, True, False]] * 2
    np.testing.assert_array_equal(found.embeds, rows_of(found.ids))


def test_random_prompts_differ_in_length_and_hold_a_part_of_a_tile() -> None:
    found = seeded_questions(3, 256, 1000, rows_of)
    assert found.tiles.sum(1).tolist() == [MOST_OF_A_TILE] * 3
    lengths = found.counts.sum(1).tolist()
    assert lengths == sorted(lengths, reverse=True)
    assert len(set(lengths)) == 3
    assert found.ids.max() < 1000
    np.testing.assert_array_equal(seeded_questions(3, 256, 1000, rows_of).ids, found.ids)
