"""Search greedily or with beams over a decoder with a key/value cache, as the reference's `generate` does.

A row is a picture, or one of its beams. A step feeds new ids and returns the logits of the last position. The backend
keeps the cache, which grows by the ids that were fed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from internvl_edge.runtime.backends.session import KeyValueCache
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.finite import require_finite
from internvl_edge.runtime.stages import POSTPROCESS, UNMEASURED, Stages

MOST_BEAMS = 64
"""Most beams of a picture. Each has a row of the decoder and a cache of its own; the reference uses 5."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """Limits of one generation. Lengths count new tokens.

    Raises:
        InputError: limits that contradict each other or are out of range, all of them named.
    """

    num_beams: int = 1
    min_new_tokens: int = 0
    max_new_tokens: int = 30
    eos_token_id: int = 2
    pad_token_id: int = 0
    """Id that pads rows which are finished."""

    def __post_init__(self) -> None:
        """Check all limits."""
        wrong = [
            f"{name} is {getattr(self, name)}" for name in ("num_beams", "max_new_tokens") if getattr(self, name) < 1
        ]
        if self.num_beams > MOST_BEAMS:
            wrong.append(f"num_beams is {self.num_beams}")
        if not 0 <= self.min_new_tokens <= max(self.max_new_tokens, 1):
            wrong.append(f"min_new_tokens is {self.min_new_tokens} with max_new_tokens {self.max_new_tokens}")
        if self.eos_token_id < 0:
            wrong.append(f"eos_token_id is {self.eos_token_id}")
        if wrong:
            remedy = f"give 1 to {MOST_BEAMS} beams, 1 token or more and a minimum below the maximum"
            raise InputError(f"generation: {', '.join(wrong)}; {remedy}")


@dataclass(frozen=True, slots=True)
class Generated:
    """New ids ``[B, new tokens]`` and, for beam search, the score of each row, its mean log-probability."""

    ids: np.ndarray
    scores: np.ndarray | None = None


class _Decoder:
    """The cache and the attention mask of every row, which grow together."""

    def __init__(self, cache: KeyValueCache, past_length: int, rows: int, stages: Stages) -> None:
        self._cache = cache
        self._mask = np.ones((rows, past_length), np.int64)
        self._stages = stages
        self._shared = past_length
        """Number of positions that are the same in all beams of a picture."""

    def prefill(self, prompt_ids: np.ndarray) -> np.ndarray:
        """Append `prompt_ids` ``[R, n]``, left-padded with 0; return the logits ``[R, V]`` of the last column."""
        self._shared += prompt_ids.shape[1]
        return self._append(prompt_ids, (prompt_ids > 0).astype(np.int64))

    def feed(self, tokens: np.ndarray) -> np.ndarray:
        """Append one token ``[R]`` to each row; return the logits ``[R, V]`` of the next one."""
        ids = tokens[:, None]
        return self._append(ids, np.ones_like(ids))

    def select(self, rows: np.ndarray) -> None:
        """Keep the rows of these indexes, in this order, repeats allowed. Rows stay within their picture."""
        self._mask = self._mask[rows]
        self._cache.select(rows, self._shared)

    def _append(self, ids: np.ndarray, new: np.ndarray) -> np.ndarray:
        self._mask = np.concatenate([self._mask, new], axis=1)
        positions = np.cumsum(self._mask, axis=1) - 1
        positions[self._mask == 0] = 1
        inputs = {
            "input_ids": ids,
            "attention_mask": self._mask,
            "position_ids": positions[:, -ids.shape[1] :],
        }
        logits = np.asarray(self._cache.step(inputs, self._stages), np.float32)
        return require_finite(logits, "rows of logits")


def generate(
    cache: KeyValueCache,
    past_length: int,
    prompt_ids: np.ndarray,
    config: GenerationConfig,
    stages: Stages = UNMEASURED,
) -> Generated:
    """Return the ids that the decoder generates after `prompt_ids` ``[B, n]``, which are left-padded with id 0.

    The cache holds `past_length` positions for each picture; beams share them until they differ.

    Raises:
        BackendError: the decoder fails, or returns NaN, among which there is no best token.
    """
    if config.num_beams == 1:
        columns = list(greedy_tokens(cache, past_length, prompt_ids, config, stages))
        return Generated(np.stack(columns, axis=1).astype(np.int64))
    decoder = _Decoder(cache, past_length, prompt_ids.shape[0], stages)
    return _beam_search(decoder, decoder.prefill(prompt_ids), config, stages)


def greedy_tokens(
    cache: KeyValueCache,
    past_length: int,
    prompt_ids: np.ndarray,
    config: GenerationConfig,
    stages: Stages = UNMEASURED,
) -> Iterator[np.ndarray]:
    """Yield the best next token of every row ``[B]``, step by step until the last row ends; see `generate`.

    A step is computed when its tokens are requested.
    """
    decoder = _Decoder(cache, past_length, prompt_ids.shape[0], stages)
    logits = decoder.prefill(prompt_ids)
    unfinished = np.ones(logits.shape[0], bool)
    for written in range(config.max_new_tokens):
        with stages.stage(POSTPROCESS):
            scores = _without_early_eos(logits, written, config)
            tokens = np.where(unfinished, scores.argmax(axis=1), config.pad_token_id)
            unfinished &= tokens != config.eos_token_id
        yield tokens
        if not unfinished.any() or written + 1 == config.max_new_tokens:
            return
        logits = decoder.feed(tokens)


def _without_early_eos(scores: np.ndarray, new_tokens: int, config: GenerationConfig) -> np.ndarray:
    """Return `scores` in which eos is impossible before `min_new_tokens` have been generated."""
    if new_tokens >= config.min_new_tokens:
        return scores
    forbidden = scores.copy()
    forbidden[:, config.eos_token_id] = -np.inf
    return forbidden


class _Hypotheses:
    """The best finished beams of one picture, at most `num_beams`, with length penalty 1.

    Ties are resolved as in the reference: a full set takes no beam of equal score, the oldest of the worst is replaced,
    and the youngest of the best is the answer.
    """

    def __init__(self, num_beams: int) -> None:
        self._num_beams = num_beams
        self._beams: list[tuple[float, np.ndarray]] = []
        self.done = False

    def add(self, ids: np.ndarray, log_probability: float) -> None:
        """Add a finished beam of new tokens `ids`, whose length includes eos as in the reference."""
        score = log_probability / len(ids)
        if len(self._beams) < self._num_beams:
            self._beams.append((score, ids))
        elif score > self._worst():
            del self._beams[min(range(self._num_beams), key=lambda index: self._beams[index][0])]
            self._beams.append((score, ids))

    def update_done(self, best_running: float, length: int) -> None:
        """Set `done` if no running beam can exceed the score of the worst finished one at the present length."""
        full = len(self._beams) == self._num_beams
        self.done = full and self._worst() >= best_running / length

    def best(self) -> tuple[float, np.ndarray]:
        """Return score and ids of the best finished beam."""
        index = max(range(len(self._beams)), key=lambda index: (self._beams[index][0], index))
        return self._beams[index]

    def _worst(self) -> float:
        return min(score for score, _ in self._beams)


def _beam_search(decoder: _Decoder, logits: np.ndarray, config: GenerationConfig, stages: Stages) -> Generated:
    pictures, beams = logits.shape[0], config.num_beams
    vocabulary = logits.shape[1]
    decoder.select(np.repeat(np.arange(pictures), beams))
    logits = np.repeat(logits, beams, axis=0)
    running = np.full((pictures, beams), -1e9, np.float32)
    running[:, 0] = 0  # the beams are equal at first, so that all but one are excluded from the first step
    written = np.zeros((pictures * beams, 0), np.int64)
    finished = [_Hypotheses(beams) for _ in range(pictures)]
    while True:
        with stages.stage(POSTPROCESS):
            scores = _without_early_eos(_log_softmax(logits), written.shape[1], config)
            totals = (scores + running.reshape(-1, 1)).reshape(pictures, beams * vocabulary)
            candidates = _top(totals, 2 * beams)
            parents, tokens, running = _advance(candidates, totals, written, finished, vocabulary, config)
            written = np.concatenate([written[parents], tokens[:, None]], axis=1)
        if all(hypotheses.done for hypotheses in finished) or written.shape[1] == config.max_new_tokens:
            break
        with stages.stage(POSTPROCESS):
            decoder.select(parents)
        logits = decoder.feed(tokens)
    _finish_running(finished, written, running)
    return _best(finished, config)


def _advance(
    candidates: np.ndarray,
    totals: np.ndarray,
    written: np.ndarray,
    finished: list[_Hypotheses],
    vocabulary: int,
    config: GenerationConfig,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return parent row, token and total of the beams that continue; those that end are added to `finished`.

    There are twice as many candidates as beams. One that ends counts only if it is among the first `num_beams`.
    """
    pictures, beams = len(finished), config.num_beams
    parents = np.zeros((pictures, beams), np.int64)
    tokens = np.full((pictures, beams), config.pad_token_id, np.int64)
    running = np.zeros((pictures, beams), np.float32)
    for picture, hypotheses in enumerate(finished):
        parents[picture] = picture * beams
        if hypotheses.done:
            continue
        kept = 0
        for rank, candidate in enumerate(candidates[picture]):
            parent, token = picture * beams + candidate // vocabulary, candidate % vocabulary
            total = totals[picture, candidate]
            if token == config.eos_token_id:
                if rank < beams:
                    hypotheses.add(np.append(written[parent], token), float(total))
                continue
            parents[picture, kept], tokens[picture, kept], running[picture, kept] = parent, token, total
            kept += 1
            if kept == beams:
                break
        hypotheses.update_done(float(totals[picture, candidates[picture, 0]]), written.shape[1] + 1)
    return parents.ravel(), tokens.ravel(), running


def _finish_running(finished: list[_Hypotheses], written: np.ndarray, running: np.ndarray) -> None:
    beams = running.shape[1]
    for picture, hypotheses in enumerate(finished):
        if not hypotheses.done:
            for beam in range(beams):
                hypotheses.add(written[picture * beams + beam], float(running[picture, beam]))


def _best(finished: list[_Hypotheses], config: GenerationConfig) -> Generated:
    best = [hypotheses.best() for hypotheses in finished]
    width = max(len(ids) for _, ids in best)
    ids = np.full((len(best), width), config.pad_token_id, np.int64)
    for row, (_, tokens) in enumerate(best):
        ids[row, : len(tokens)] = tokens
    return Generated(ids, np.array([score for score, _ in best], np.float32))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def _top(totals: np.ndarray, count: int) -> np.ndarray:
    """Return the indexes of the `count` largest entries of each row, largest first."""
    nearest = np.argpartition(-totals, count - 1, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(totals, nearest, axis=1), axis=1, kind="stable")
    return np.take_along_axis(nearest, order, axis=1)
