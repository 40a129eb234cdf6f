"""The attention mask of a decoder and its positions, with padding on the left and between."""

import numpy as np

from internvl_edge.runtime.tasks.generation.decoder import AttentionMask


def test_positions_count_tokens_and_padding_has_position_1() -> None:
    mask = AttentionMask(np.zeros((2, 0), np.int64))
    first = mask.grow(np.array([[0, 0, 1], [1, 1, 1]]))
    assert first["attention_mask"].tolist() == [[0, 0, 1], [1, 1, 1]]
    assert first["position_ids"].tolist() == [[1, 1, 0], [0, 1, 2]]
    second = mask.grow(np.array([[1, 1], [0, 1]]))
    assert second["attention_mask"].tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 0, 1]]
    assert second["position_ids"].tolist() == [[1, 2], [1, 3]]
    mask.select(np.array([1, 1, 0]))
    assert mask.grow(np.ones((3, 1), np.int64))["position_ids"].tolist() == [[4], [4], [3]]
