"""Greedy and beam search against implementations that keep no cache and no batch."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl_edge.runtime.tasks.caption_decoder import CaptionDecoder
from internvl_edge.runtime.tasks.generation.beams import _Hypotheses, _top
from internvl_edge.runtime.tasks.generation.config import GenerationConfig
from internvl_edge.runtime.tasks.generation.generated import LogProbabilities
from internvl_edge.runtime.tasks.generation.search import generate, log_softmax
from tests.decoder_steps import Cache, cached

EOS = 1
HELD = 2
"""Rows of the cache before the prompt, as the query tokens are."""


class ToyLm:
    """A language model whose logits depend on every kept token, its position, and the picture."""

    def __init__(self, seed: int, vocabulary: int, pictures: int) -> None:
        rng = np.random.default_rng(seed)
        self.tokens = rng.normal(size=(vocabulary, 6))
        self.positions = rng.normal(size=(64, 6))
        self.head = rng.normal(size=(6, vocabulary)) * 2
        self.head[:, EOS] *= 2  # ends come often, so that the rules about them are tried
        self.pictures = rng.normal(size=(pictures, HELD, 6))
        self.rows_seen: list[int] = []

    def cache(self) -> Cache:
        return {"present.0.key": self.pictures[:, None]}

    def step(self, ids: np.ndarray, mask: np.ndarray, positions: np.ndarray, cache: Cache) -> tuple[np.ndarray, Cache]:
        past = cache["present.0.key"][:, 0]
        assert mask.shape == (ids.shape[0], past.shape[1] + ids.shape[1])
        self.rows_seen.append(ids.shape[0])
        rows = np.concatenate([past, self.tokens[ids] * self.positions[positions]], axis=1)
        return self._logits((rows * mask[..., None]).sum(axis=1)), {"present.0.key": rows[:, None]}

    def log_probabilities(self, picture: int, ids: list[int]) -> np.ndarray:
        """Return those ``[V]`` of the token after `ids`; see `logits`."""
        logits = self.logits(picture, ids)
        shifted = logits - logits.max()
        result: np.ndarray = shifted - np.log(np.exp(shifted).sum())
        return result

    def logits(self, picture: int, ids: list[int]) -> np.ndarray:
        """Return ``[V]`` after prompt and new tokens `ids`, which hold no padding, in one pass without a cache."""
        positions = np.arange(HELD, HELD + len(ids))
        state = self.pictures[picture].sum(axis=0) + (self.tokens[ids] * self.positions[positions]).sum(axis=0)
        logits: np.ndarray = self._logits(state[None])[0].astype(np.float32)
        return logits

    def _logits(self, state: np.ndarray) -> np.ndarray:
        logits: np.ndarray = (np.tanh(state)[:, :, None] * self.head).sum(axis=1)
        return logits


def processed(scores: np.ndarray, seen: list[int], written: int, config: GenerationConfig) -> np.ndarray:
    """Return the scores of one row, changed token by token."""
    changed = scores.copy()
    for token, score in enumerate(scores):
        if token in seen:
            changed[token] = score * np.float32(config.repetition_penalty) ** (1 if score < 0 else -1)
        if token in config.forbidden_ids or (token in config.eos_token_ids and written < config.min_new_tokens):
            changed[token] = -np.inf
    return changed


def naive_greedy(lm: ToyLm, picture: int, prompt: list[int], config: GenerationConfig) -> list[int]:
    new: list[int] = []
    while len(new) < config.max_new_tokens and not set(config.eos_token_ids) & set(new):
        scores = processed(lm.logits(picture, prompt + new), prompt + new, len(new), config)
        new.append(int(scores.argmax()))
    return new


def naive_beams(lm: ToyLm, picture: int, prompt: list[int], config: GenerationConfig) -> tuple[list[int], float]:
    """Return the best ids and their mean log-probability, by the published rules, one candidate at a time."""
    beams: list[tuple[np.float32, list[int]]] = [(np.float32(0), [])]
    finished: list[tuple[float, list[int]]] = []

    def finish(total: np.float32, ids: list[int]) -> None:
        finished.append((float(total) / len(ids), ids))
        if len(finished) > config.num_beams:
            finished.remove(min(finished, key=lambda entry: entry[0]))

    for length in range(1, config.max_new_tokens + 1):
        grown = []
        for total, ids in beams:
            scores = processed(lm.log_probabilities(picture, prompt + ids), prompt + ids, len(ids), config)
            grown += [(np.float32(total + score), [*ids, token]) for token, score in enumerate(scores)]
        grown = sorted(grown, key=lambda entry: entry[0], reverse=True)
        grown = grown[: (1 + max(len(config.eos_token_ids), 1)) * config.num_beams]
        beams = []
        for rank, (total, ids) in enumerate(grown):
            if ids[-1] not in config.eos_token_ids:
                beams.append((total, ids))
            elif rank < config.num_beams and len(beams) < config.num_beams:
                finish(total, ids)
        beams = beams[: config.num_beams]
        if len(finished) == config.num_beams and min(finished)[0] >= float(grown[0][0]) / length:
            break
    else:
        for total, ids in beams:
            finish(total, ids)
    score, best = max(finished, key=lambda entry: entry[0])
    return best, score


def padded(rows: list[list[int]], fill: int) -> np.ndarray:
    width = max(len(row) for row in rows)
    return np.array([row + [fill] * (width - len(row)) for row in rows])


def left_padded(rows: list[list[int]]) -> np.ndarray:
    width = max(len(row) for row in rows)
    return np.array([[0] * (width - len(row)) + row for row in rows])


@st.composite
def searches(draw: st.DrawFn) -> tuple[ToyLm, list[list[int]], GenerationConfig]:
    vocabulary = draw(st.integers(8, 12))
    pictures = draw(st.integers(1, 3))
    prompts = [draw(st.lists(st.integers(2, vocabulary - 1), min_size=1, max_size=4)) for _ in range(pictures)]
    longest = draw(st.integers(1, 7))
    config = GenerationConfig(
        num_beams=draw(st.integers(1, 4)),
        min_new_tokens=draw(st.integers(0, longest)),
        max_new_tokens=longest,
        eos_token_ids=tuple(draw(st.sets(st.sampled_from([EOS, 3, 6]), max_size=3))),
        pad_token_id=draw(st.sampled_from([0, 7])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.3, 0.8])),
        forbidden_ids=tuple(draw(st.sets(st.sampled_from([4, 5, 40]), max_size=2))),
    )
    return ToyLm(draw(st.integers(0, 10_000)), vocabulary, pictures), prompts, config


@settings(max_examples=150)
@given(searches())
def test_both_searches_equal_the_naive_ones(search: tuple[ToyLm, list[list[int]], GenerationConfig]) -> None:
    lm, prompts, config = search
    repeated = np.where(left_padded(prompts) > 0, left_padded(prompts), -1)
    result = generate(
        CaptionDecoder(cached(lm.step, lm.cache()), HELD, left_padded(prompts)), config, repeated=repeated
    )
    assert result.ids.dtype == np.int64
    if config.num_beams == 1:
        rows = [naive_greedy(lm, picture, prompt, config) for picture, prompt in enumerate(prompts)]
        assert result.scores is None
    else:
        best = [naive_beams(lm, picture, prompt, config) for picture, prompt in enumerate(prompts)]
        rows = [ids for ids, _ in best]
        assert result.scores is not None
        np.testing.assert_allclose(result.scores, [score for _, score in best], rtol=1e-5)
    np.testing.assert_array_equal(result.ids, padded(rows, config.pad_token_id))
    assert result.lengths.tolist() == [len(row) for row in rows]
    assert result.finish_reasons == tuple("stop" if row[-1] in config.eos_token_ids else "length" for row in rows)


@pytest.mark.parametrize("seed", range(8))
def test_beams_wide_enough_find_the_best_of_all_sequences(seed: int) -> None:
    lm = ToyLm(seed, vocabulary=4, pictures=1)
    config = GenerationConfig(num_beams=64, max_new_tokens=3, eos_token_ids=(EOS,))
    scored = {}
    for ids in itertools.chain.from_iterable(itertools.product(range(4), repeat=n) for n in (1, 2, 3)):
        if EOS not in ids[:-1] and (ids[-1] == EOS or len(ids) == 3):
            steps = [lm.log_probabilities(0, [2, *ids[:n]])[ids[n]] for n in range(len(ids))]
            scored[ids] = float(sum(steps)) / len(ids)
    best = max(scored, key=lambda ids: scored[ids])
    result = generate(CaptionDecoder(cached(lm.step, lm.cache()), HELD, np.array([[2]])), config)
    assert tuple(result.ids[0]) == best
    assert result.scores is not None
    assert result.scores[0] == pytest.approx(scored[best], rel=1e-5)


class Scripted:
    """Probabilities of the next token, written down for each history of new tokens; tokens not named are impossible."""

    def __init__(self, rows: Mapping[tuple[int, ...], Mapping[int, float]], vocabulary: int = 6) -> None:
        self.rows, self.vocabulary = rows, vocabulary

    def __call__(
        self, ids: np.ndarray, mask: np.ndarray, positions: np.ndarray, cache: Cache
    ) -> tuple[np.ndarray, Cache]:
        history = np.concatenate([cache["present.history"][:, 0, :, 0], ids], axis=1)
        logits = np.full((len(ids), self.vocabulary), -1e4, np.float32)
        for row, past in enumerate(history[:, 2:]):  # behind the held row and the prompt's one token
            for token, probability in self.rows.get(tuple(past.tolist()), {}).items():
                logits[row, token] = np.log(probability)
        return logits, {"present.history": history[:, None, :, None]}

    def run(self, **settings: Any) -> tuple[list[int], float]:
        cache = {"present.history": np.zeros((1, 1, 1, 1), np.int64)}
        decoder = CaptionDecoder(cached(self, cache), 1, np.array([[5]]))
        result = generate(decoder, GenerationConfig(eos_token_ids=(EOS,), **settings))
        return result.ids[0].tolist(), float(result.scores[0]) if result.scores is not None else np.nan


def test_a_score_is_the_mean_over_new_tokens_with_eos() -> None:
    lm = Scripted({(): {2: 0.6, 3: 0.4}, (2,): {EOS: 0.9, 4: 0.1}, (3,): {EOS: 0.8, 4: 0.2}})
    ids, score = lm.run(num_beams=2, max_new_tokens=2)
    assert ids == [2, EOS]
    assert score == pytest.approx(np.log(0.6 * 0.9) / 2, rel=1e-4)


def test_an_end_below_the_first_beams_does_not_count() -> None:
    # Second step: [2, eos] 0.357, [2, 4] 0.343, [3, eos] 0.18, [3, 4] 0.12. The third is not among the first two, so
    # that one beam has ended. Were it counted, two had, and the third step (at best 0.0206) would end the search; as
    # it is, the search goes on to nine tokens, whose mean is better than that of [2, eos].
    spread = {5: 0.06, **dict.fromkeys(range(6, 36), 0.94 / 30)}
    chain = [2, 4, 5, 6, 7, 8, 9, 10]
    rows = {(): {2: 0.7, 3: 0.3}, (2,): {EOS: 0.51, 4: 0.49}, (3,): {EOS: 0.6, 4: 0.4}, (2, 4): spread, (3, 4): spread}
    sure = {tuple(chain[:n]): {token: 1.0} for n, token in enumerate([*chain, EOS]) if n > 2}
    ids, score = Scripted({**rows, **sure}, vocabulary=40).run(num_beams=2, max_new_tokens=9)
    assert ids == [*chain, EOS]
    assert score == pytest.approx(np.log(0.7 * 0.49 * 0.06) / 9, rel=1e-3)


def test_beams_find_what_greedy_misses() -> None:
    lm = Scripted(
        {(): {2: 0.6, 3: 0.4}, (2,): {4: 0.5, 5: 0.5}, (3,): {EOS: 1.0}, (2, 4): {EOS: 1.0}, (2, 5): {EOS: 1.0}}
    )
    assert lm.run(max_new_tokens=3)[0][0] == 2
    assert lm.run(num_beams=2, max_new_tokens=2)[0] == [3, EOS]


def test_eos_waits_for_the_minimum() -> None:
    lm = Scripted({(): {EOS: 0.9, 2: 0.1}, (2,): {EOS: 0.9, 3: 0.1}, (2, 3): {EOS: 0.9, 4: 0.1}})
    assert lm.run(max_new_tokens=4)[0] == [EOS]
    assert lm.run(min_new_tokens=2, max_new_tokens=4)[0] == [2, 3, EOS]
    assert lm.run(min_new_tokens=2, max_new_tokens=4, num_beams=2)[0] == [2, 3, EOS]


def test_finished_rows_are_filled_with_zero_until_the_last_ends() -> None:
    def step(ids: np.ndarray, mask: np.ndarray, positions: np.ndarray, cache: Cache) -> tuple[np.ndarray, Cache]:
        written = mask.shape[1] - 2
        tokens = [EOS if written == row + 1 else 3 for row in range(len(ids))]
        return np.eye(5)[tokens], cache

    cache = {"present.key": np.zeros((3, 1, 1))}
    decoder = CaptionDecoder(cached(step, cache), 1, np.full((3, 2), 4))
    result = generate(decoder, GenerationConfig(max_new_tokens=9, eos_token_ids=(EOS,)))
    np.testing.assert_array_equal(result.ids, [[EOS, 0, 0], [3, EOS, 0], [3, 3, EOS]])


def test_masks_and_positions_of_left_padded_prompts() -> None:
    seen: list[tuple[list[list[int]], list[list[int]]]] = []

    def step(ids: np.ndarray, mask: np.ndarray, positions: np.ndarray, cache: Cache) -> tuple[np.ndarray, Cache]:
        seen.append((mask.tolist(), positions.tolist()))
        return np.eye(5)[[3] * len(ids)], cache

    cache = {"present.key": np.zeros((2, 3, 1))}
    decoder = CaptionDecoder(cached(step, cache), 3, np.array([[0, 0, 4], [4, 3, 4]]))
    generate(decoder, GenerationConfig(max_new_tokens=2, eos_token_ids=(EOS,)))
    assert seen[0] == ([[1, 1, 1, 0, 0, 1], [1, 1, 1, 1, 1, 1]], [[1, 1, 3], [3, 4, 5]])
    assert seen[1] == ([[1, 1, 1, 0, 0, 1, 1], [1, 1, 1, 1, 1, 1, 1]], [[4], [6]])
    assert len(seen) == 2  # nothing is computed for a token that nobody reads


def test_the_prompt_is_computed_once_a_picture_and_beams_part_afterwards() -> None:
    lm = ToyLm(0, vocabulary=9, pictures=2)
    config = GenerationConfig(num_beams=3, min_new_tokens=4, max_new_tokens=4, eos_token_ids=(EOS,))
    generate(CaptionDecoder(cached(lm.step, lm.cache()), HELD, np.array([[3, 4], [5, 6]])), config)
    assert lm.rows_seen == [2, 6, 6, 6]


def test_equal_scores_are_kept_as_the_reference_keeps_them() -> None:
    kept = _Hypotheses(2)
    for name, total in ((1, -2.0), (2, -2.0), (3, -2.0)):  # the third is no better than the worst: left out
        kept.add(np.array([name, EOS]), total)
    assert kept.best()[1][0] == 2  # of equals, the youngest
    kept.add(np.array([4, EOS]), -1.0)  # drives out the oldest of the worst
    kept.add(np.array([5, EOS]), -1.5)
    assert kept.best()[1][0] == 4
    assert sorted(int(ids[0]) for _, ids in kept._beams) == [4, 5]


@given(st.integers(0, 99), st.integers(1, 12), st.integers(12, 400))
def test_the_largest_of_many_come_first(seed: int, count: int, width: int) -> None:
    totals = np.random.default_rng(seed).permutation(3 * width).reshape(3, width)
    np.testing.assert_array_equal(_top(totals, count), np.argsort(-totals, axis=1)[:, :count])


def test_a_full_set_ends_once_no_running_beam_can_win() -> None:
    kept = _Hypotheses(1)
    kept.update_done(best_running=-9.0, length=1)
    assert not kept.done  # not full
    kept.add(np.array([3, EOS]), -2.0)  # score -1
    kept.update_done(best_running=-2.9, length=3)
    assert not kept.done
    kept.update_done(best_running=-3.0, length=3)
    assert kept.done


def test_no_id_ends_a_row_where_none_is_given() -> None:
    lm = Scripted({(): {EOS: 1.0}, (EOS,): {EOS: 0.9, 2: 0.1}, (EOS, EOS): {3: 1.0}})
    cache = {"present.history": np.zeros((1, 1, 1, 1), np.int64)}
    decoder = CaptionDecoder(cached(lm, cache), 1, np.array([[5]]))
    result = generate(decoder, GenerationConfig(eos_token_ids=(), max_new_tokens=3))
    assert (result.ids.tolist(), result.finish_reasons) == ([[EOS, EOS, 3]], ("length",))


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("asked", [1, 2, 4])
def test_a_cancelled_generation_returns_what_it_has(beams: int, asked: int) -> None:
    lm = ToyLm(3, vocabulary=9, pictures=2)
    answers = iter([False] * (asked - 1) + [True])
    decoder = CaptionDecoder(cached(lm.step, lm.cache()), HELD, np.array([[3, 4], [5, 6]]))
    config = GenerationConfig(num_beams=beams, max_new_tokens=30, min_new_tokens=30)
    result = generate(decoder, config, cancelled=lambda: next(answers))
    assert result.finish_reasons == ("cancelled", "cancelled")
    assert result.ids.shape == (2, asked - 1)
    assert result.lengths.tolist() == [asked - 1] * 2
    assert len(lm.rows_seen) == max(asked - 1, 1)  # no step after the one that was asked for


def test_log_probabilities_are_those_of_the_model() -> None:
    lm = ToyLm(5, vocabulary=9, pictures=1)
    decoder = CaptionDecoder(cached(lm.step, lm.cache()), HELD, np.array([[3, 4]]))
    config = GenerationConfig(max_new_tokens=4, min_new_tokens=4, repetition_penalty=1.4, log_probabilities=3)
    result = generate(decoder, config)
    ids = result.ids[0].tolist()
    for written, likely in enumerate(result.log_probabilities):
        assert isinstance(likely, LogProbabilities)
        expected = lm.log_probabilities(0, [3, 4, *ids[:written]])
        assert likely.chosen[0] == pytest.approx(expected[ids[written]], abs=1e-5)
        best = np.argsort(-expected, kind="stable")[:3]
        assert likely.ids[0].tolist() == best.tolist()
        np.testing.assert_allclose(likely.values[0], expected[best], atol=1e-5)
    assert len(result.log_probabilities) == 4


def test_log_softmax_sums_a_large_vocabulary_exactly() -> None:
    logits = np.random.default_rng(0).normal(size=(1, 200_000)).astype(np.float32)
    wide = logits.astype(np.float64)
    expected = wide - np.log(np.exp(wide).sum())
    np.testing.assert_allclose(log_softmax(logits), expected, atol=1e-6)
