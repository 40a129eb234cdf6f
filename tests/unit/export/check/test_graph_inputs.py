"""Each graph is fed what it takes: samples where they are its inputs, another graph's outputs else."""

import numpy as np
import pytest

from internvl_edge.export.check.graph_inputs import GraphInputs, Questions, counting_rows
from internvl_edge.export.models.graphs import GRAPHS, GraphRow, graph_rows
from tests.unit.export.models.test_graphs import CHAT, CONFIG, config_of, options_of

PIXELS = np.zeros((2, 3, 56, 56), np.float32)
TEXTS, PAIRS, PROMPT = np.array([[1, 5, 2], [1, 2, 0]]), np.array([[1, 7, 9, 2], [1, 8, 2, 0]]), np.array([[1, 4, 6]])
QUESTIONS = Questions(
    ids=np.array([[5, 0, 0, 6], [0, 7, 0, 8]]),
    counts=np.array([[1, 1, 1, 1], [0, 1, 1, 1]], np.bool_),
    tiles=np.array([[0, 1, 1, 0], [0, 0, 1, 0]], np.bool_),
    embeds=np.full((2, 4, 24), 0.5, np.float32),
)
SAMPLES = GraphInputs(pixel_values=PIXELS, text_ids=TEXTS, match_ids=PAIRS, prompt_ids=PROMPT, questions=QUESTIONS)
ROWS = graph_rows(CONFIG)


def fed_to(row: GraphRow) -> dict[str, np.ndarray]:
    """Return arrays under the names of the outputs of what feeds a graph."""
    if row.fed_by is None:
        return {}
    config = config_of(row)
    feeder = row.feeder(graph_rows(config))
    assert feeder is not None
    names = graph_rows(config)[feeder].module.outputs(options_of(row))
    if row.embeds is not None:
        return {name: np.zeros((2, 4, 24), np.float32) for name in names}
    return {name: np.full((2, 3, 4, 16), index, np.float32) for index, name in enumerate(names)}


@pytest.mark.parametrize("row", GRAPHS, ids=lambda row: row.use.role)
def test_a_graph_is_fed_what_it_takes(row: GraphRow) -> None:
    found = SAMPLES.of(row, row.input_shapes(config_of(row)), fed_to(row))
    assert sorted(found) == sorted(item.name for item in row.module.inputs(options_of(row)))


def test_texts_of_their_own_and_texts_of_pictures_are_told_apart() -> None:
    assert SAMPLES.of(ROWS["text"], {}, {})["input_ids"] is TEXTS
    assert SAMPLES.of(ROWS["itm"], {}, {"vision_states": PIXELS})["input_ids"] is PAIRS


def test_a_prompt_stands_behind_the_cache_of_every_picture() -> None:
    fed = fed_to(ROWS["decoder"])
    found = SAMPLES.of(ROWS["decoder"], {}, fed)
    assert found["input_ids"].tolist() == [[1, 4, 6]] * 2
    assert found["position_ids"].tolist() == [[4, 5, 6]] * 2
    assert found["attention_mask"].tolist() == [[1] * 7] * 2
    assert found["past_key_values.1.key"] is fed["present.1.key"]


def test_embeddings_of_tiles_stand_among_those_of_ids_and_padding_is_on_the_left() -> None:
    row = graph_rows(CHAT)["llm"]
    tiles = np.arange(2 * 4 * 24, dtype=np.float32).reshape(2, 4, 24)
    found = SAMPLES.of(row, row.input_shapes(CHAT), {"vit_embeds": tiles})
    embeds = found["inputs_embeds"]
    assert (embeds[0, 1:3] == tiles[0, :2]).all()
    assert (embeds[1, 2] == tiles[1, 0]).all()
    assert (embeds[~QUESTIONS.tiles] == 0.5).all()
    assert (QUESTIONS.embeds == 0.5).all()
    assert found["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 1, 1, 1]]
    assert found["position_ids"].tolist() == [[0, 1, 2, 3], [1, 0, 1, 2]]
    assert found["rope_length"].tolist() == [4]
    assert found["past_key_values.1.value"].shape == (2, 2, 0, 8)
    counts = counting_rows(row, found, 0)
    assert counts is not None
    assert (counts == QUESTIONS.counts).all()


def test_padding_does_not_count_and_queries_do() -> None:
    text, itm = (counting_rows(ROWS[name], {"input_ids": TEXTS}, queries=2) for name in ("text", "itm"))
    assert text is not None
    assert itm is not None
    assert text.tolist() == [[True, True, True], [True, True, False]]
    assert itm.tolist() == [[True] * 5, [True] * 4 + [False]]
    assert all(counting_rows(ROWS[name], {"input_ids": TEXTS}, 2) is None for name in ("vision", "query", "decoder"))
