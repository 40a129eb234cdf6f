"""Beam search: the best continuations of all beams of a prompt, as the reference ranks and closes them."""

from collections.abc import Callable

import numpy as np

from internvl_edge.runtime.stages import POSTPROCESS, Stages
from internvl_edge.runtime.tasks.generation.config import GenerationConfig
from internvl_edge.runtime.tasks.generation.decoder import Decoder
from internvl_edge.runtime.tasks.generation.generated import FinishReason, Generated
from internvl_edge.runtime.tasks.generation.processors import LogitsProcessors
from internvl_edge.runtime.tasks.generation.ranking import ranked


class _Hypotheses:
    """The best finished beams of one prompt, at most `num_beams`, with length penalty 1.

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


def beam_search(
    decoder: Decoder,
    logits: np.ndarray,
    config: GenerationConfig,
    processors: LogitsProcessors,
    stages: Stages,
    cancelled: Callable[[], bool],
) -> Generated:
    """Return the best beam of each prompt; `logits` ``[B, V]`` follow the prompts that the decoder holds."""
    prompts, beams = logits.shape[0], config.num_beams
    vocabulary = logits.shape[1]
    first = np.repeat(np.arange(prompts), beams)
    decoder.select(first)
    processors.select(first)
    logits = np.repeat(logits, beams, axis=0)
    running = np.full((prompts, beams), -1e9, np.float32)
    running[:, 0] = 0  # the beams are equal at first, so that all but one are excluded from the first step
    written = np.zeros((prompts * beams, 0), np.int64)
    finished = [_Hypotheses(beams) for _ in range(prompts)]
    while True:
        with stages.stage(POSTPROCESS):
            scores = processors(_log_softmax(logits), written.shape[1])
            totals = (scores + running.reshape(-1, 1)).reshape(prompts, beams * vocabulary)
            candidates = _top(totals, (1 + max(len(config.eos_token_ids), 1)) * beams)
            parents, tokens, running = _advance(candidates, totals, written, finished, vocabulary, config)
            written = np.concatenate([written[parents], tokens[:, None]], axis=1)
        done = all(hypotheses.done for hypotheses in finished)
        if done or written.shape[1] == config.max_new_tokens or cancelled():
            break
        with stages.stage(POSTPROCESS):
            decoder.select(parents)
            processors.select(parents)
            processors.add(tokens)
        logits = decoder.feed(tokens)
    end: FinishReason = "length" if written.shape[1] == config.max_new_tokens else "cancelled"
    _finish_running(finished, written, running)
    return _best(finished, config, end)


def _advance(
    candidates: np.ndarray,
    totals: np.ndarray,
    written: np.ndarray,
    finished: list[_Hypotheses],
    vocabulary: int,
    config: GenerationConfig,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return parent row, token and total of the beams that continue; those that end are added to `finished`.

    There are more candidates than beams, at least twice as many. One that ends counts only if it is among the first
    `num_beams`.
    """
    prompts, beams = len(finished), config.num_beams
    parents = np.zeros((prompts, beams), np.int64)
    tokens = np.full((prompts, beams), config.pad_token_id, np.int64)
    running = np.zeros((prompts, beams), np.float32)
    for prompt, hypotheses in enumerate(finished):
        parents[prompt] = prompt * beams
        if hypotheses.done:
            continue
        kept = 0
        for rank, candidate in enumerate(candidates[prompt]):
            parent, token = prompt * beams + candidate // vocabulary, candidate % vocabulary
            total = totals[prompt, candidate]
            if token in config.eos_token_ids:
                if rank < beams:
                    hypotheses.add(np.append(written[parent], token), float(total))
                continue
            parents[prompt, kept], tokens[prompt, kept], running[prompt, kept] = parent, token, total
            kept += 1
            if kept == beams:
                break
        hypotheses.update_done(float(totals[prompt, candidates[prompt, 0]]), written.shape[1] + 1)
    return parents.ravel(), tokens.ravel(), running


def _finish_running(finished: list[_Hypotheses], written: np.ndarray, running: np.ndarray) -> None:
    beams = running.shape[1]
    for prompt, hypotheses in enumerate(finished):
        if not hypotheses.done:
            for beam in range(beams):
                hypotheses.add(written[prompt * beams + beam], float(running[prompt, beam]))


def _best(finished: list[_Hypotheses], config: GenerationConfig, end: FinishReason) -> Generated:
    """Return the best row of each prompt; `end` is the reason of rows that no id stopped."""
    best = [hypotheses.best() for hypotheses in finished]
    lengths = np.array([len(ids) for _, ids in best])
    ids = np.full((len(best), lengths.max()), config.pad_token_id, np.int64)
    for row, (_, tokens) in enumerate(best):
        ids[row, : len(tokens)] = tokens
    reasons: tuple[FinishReason, ...] = tuple(
        "stop" if tokens[-1] in config.eos_token_ids else end for _, tokens in best
    )
    return Generated(ids, lengths, reasons, np.array([score for score, _ in best], np.float32))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return log-probabilities ``[R, V]`` in fp32, in which the reference ranks beams."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def _top(totals: np.ndarray, count: int) -> np.ndarray:
    """Return the indexes of the `count` largest entries of each row, largest first; of equal ones the first."""
    return np.array([ranked(row, min(count, totals.shape[1])) for row in totals], np.int64)
