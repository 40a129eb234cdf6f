"""Each graph is fed what it takes: samples where they are its inputs, another graph's outputs else."""

import numpy as np
import pytest

from internvl_edge.export.check.graph_inputs import GraphInputs, counting_rows
from internvl_edge.export.models.graphs import GRAPHS, GraphRow, graph_row
from tests.unit.export.models.test_graphs import OPTIONS

PIXELS = np.zeros((2, 3, 56, 56), np.float32)
TEXTS, PAIRS, PROMPT = np.array([[1, 5, 2], [1, 2, 0]]), np.array([[1, 7, 9, 2], [1, 8, 2, 0]]), np.array([[1, 4, 6]])
SAMPLES = GraphInputs(pixel_values=PIXELS, text_ids=TEXTS, match_ids=PAIRS, prompt_ids=PROMPT)


def fed_to(row: GraphRow) -> dict[str, np.ndarray]:
    """Return arrays under the names of the outputs of what feeds a graph."""
    if row.fed_by is None:
        return {}
    names = graph_row(row.fed_by).module.outputs(OPTIONS)
    return {name: np.full((2, 3, 4, 16), index, np.float32) for index, name in enumerate(names)}


@pytest.mark.parametrize("row", GRAPHS, ids=lambda row: row.name)
def test_a_graph_is_fed_what_it_takes(row: GraphRow) -> None:
    found = SAMPLES.of(row.name, fed_to(row))
    assert sorted(found) == sorted(item.name for item in row.module.inputs(OPTIONS))


def test_texts_of_their_own_and_texts_of_pictures_are_told_apart() -> None:
    assert SAMPLES.of("text", {})["input_ids"] is TEXTS
    assert SAMPLES.of("itm", {"vision_states": PIXELS})["input_ids"] is PAIRS


def test_a_prompt_stands_behind_the_cache_of_every_picture() -> None:
    fed = fed_to(graph_row("decoder"))
    found = SAMPLES.of("decoder", fed)
    assert found["input_ids"].tolist() == [[1, 4, 6]] * 2
    assert found["position_ids"].tolist() == [[4, 5, 6]] * 2
    assert found["attention_mask"].tolist() == [[1] * 7] * 2
    assert found["past_key_values.1.key"] is fed["present.1.key"]


def test_padding_does_not_count_and_queries_do() -> None:
    text, itm = (counting_rows(name, {"input_ids": TEXTS}, queries=2) for name in ("text", "itm"))
    assert text is not None
    assert itm is not None
    assert text.tolist() == [[True, True, True], [True, True, False]]
    assert itm.tolist() == [[True] * 5, [True] * 4 + [False]]
    assert all(counting_rows(name, {"input_ids": TEXTS}, 2) is None for name in ("vision", "query", "decoder"))
