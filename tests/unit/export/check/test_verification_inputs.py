"""Inputs of a graph come from the samples, or from what torch makes of the graph before it, which runs once."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from internvl_edge.calib.data.synthetic import synthetic_ids
from internvl_edge.export.check import verification_inputs
from internvl_edge.export.check.verification_inputs import Tokenizers, VerificationInputs
from internvl_edge.export.models.graphs import graph_rows
from internvl_edge.export.run.samples import Samples
from internvl_edge.runtime.bundle.tokenizer import TEXT_PREFIX
from internvl_edge.runtime.tasks.captions import DEFAULT_PROMPT
from tests.unit.export.models.test_graphs import CONFIG, options_of

PIXELS = np.zeros((2, 3, 56, 56), np.float32)
TEXTS = ("a", "bb")


class Words:
    """A tokenizer that remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def encode_texts(self, texts: Sequence[str], *, prefix: str) -> np.ndarray:
        self.asked.append((*texts, prefix))
        return np.array([[1, 5, 2]] * len(texts))

    def encode_prompt(self, prompt: str) -> np.ndarray:
        self.asked.append((prompt,))
        return np.array([[1, 6]])


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The graphs that torch ran, in place of it: outputs count from 0."""
    names: list[str] = []

    def outputs(name: str, config: object, inputs: Mapping[str, np.ndarray], *_: object) -> dict[str, np.ndarray]:
        names.append(name)
        row = graph_rows(CONFIG)[name]
        found = row.module.outputs(options_of(row))
        return {output: np.full((2, 3, 4, 16), index, np.float32) for index, output in enumerate(found)}

    monkeypatch.setattr(verification_inputs, "torch_outputs", outputs)
    return names


def made(tokenizer: Words | None) -> VerificationInputs:
    samples = Samples(pixel_values=PIXELS, texts=TEXTS, source="s")
    return VerificationInputs(CONFIG, {}, samples, Tokenizers(texts=tokenizer), ())  # type: ignore[arg-type]


def test_torch_runs_a_graph_once_whoever_needs_it(ran: list[str]) -> None:
    found = made(Words())
    assert found.inputs("vision")["pixel_values"] is PIXELS
    assert ran == []
    states = found.inputs("query")["vision_states"]
    assert states is found.expected("vision")["vision_states"]
    found.inputs("decoder")
    found.expected("query")
    assert ran == ["vision", "query"]


def test_texts_have_their_prefix_pairs_none_and_a_prompt_is_one(ran: list[str]) -> None:
    words = Words()
    found = made(words)
    assert found.inputs("text")["input_ids"].tolist() == [[1, 5, 2]] * 2
    found.inputs("itm")
    assert found.inputs("decoder")["input_ids"].tolist() == [[1, 6]] * 2
    assert words.asked == [("a", "bb", TEXT_PREFIX), ("a", "bb", ""), (DEFAULT_PROMPT,)]


def test_random_ids_where_there_is_no_tokenizer(ran: list[str]) -> None:
    """Twelve ids a text, three fewer in each row after the first; five of a prompt, for every picture."""
    vocabulary = CONFIG.vocabulary
    texts, prompt = synthetic_ids(2, 12, vocabulary), synthetic_ids(1, 5, vocabulary)
    texts[1, 9:] = 0
    found = made(None)
    np.testing.assert_array_equal(found.inputs("text")["input_ids"], texts)
    np.testing.assert_array_equal(found.inputs("decoder")["input_ids"], np.repeat(prompt, 2, axis=0))
