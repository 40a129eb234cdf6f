"""Scores of given answers, against passes over prompt and answer without a cache."""

import numpy as np
import pytest

from internvl_edge.runtime.tasks.chat.batch import PromptBatch
from internvl_edge.runtime.tasks.chat.decoder import LanguageModel
from internvl_edge.runtime.tasks.generation.scoring import answer_log_probabilities
from internvl_edge.runtime.tasks.generation.search import log_softmax
from tests.unit.runtime.toy_llm import CONTEXT_ID, HIDDEN, TILE_TOKENS, ToyLlm, language_info


def test_an_answer_has_the_probabilities_of_its_tokens() -> None:
    llm = ToyLlm(5)
    tiles = np.random.default_rng(1).normal(size=(1, TILE_TOKENS, HIDDEN)).astype(np.float32)
    prompts = [[1, *[CONTEXT_ID] * TILE_TOKENS, 2], [4, 5]]
    answers = [[6, 7, 8, 3], [9, 3]]
    batch = PromptBatch(
        input_ids=np.array([prompts[0], [0, 0, 0, *prompts[1]]]),
        attention_mask=np.array([[1] * 5, [0, 0, 0, 1, 1]]),
        vit_embeds=tiles,
        context_token_id=CONTEXT_ID,
    )
    with LanguageModel(llm, language_info(), llm, chunk=4).decoder(batch, 4) as decoder:
        found = answer_log_probabilities(decoder, answers)
    assert llm.columns[-3:] == [1, 1, 1]  # the last token is not fed
    for prompt, answer, row, own in zip(prompts, answers, found, [tiles, None], strict=True):
        expected = [
            log_softmax(llm.one_pass([*prompt, *answer[:n]], own)[None])[0, answer[n]] for n in range(len(answer))
        ]
        assert row == pytest.approx(expected, abs=1e-5)
        assert row.dtype == np.float64
