"""Search greedily, at random, or with beams over a decoder with a key/value cache, as the reference's `generate` does.

A step feeds new tokens and returns the logits of the last position. The cache of the backend grows by what was fed.
"""

from collections.abc import Callable, Iterator

import numpy as np

from internvl_edge.runtime.stages import POSTPROCESS, UNMEASURED, Stages
from internvl_edge.runtime.tasks.generation.beams import beam_search
from internvl_edge.runtime.tasks.generation.config import GenerationConfig
from internvl_edge.runtime.tasks.generation.decoder import Decoder
from internvl_edge.runtime.tasks.generation.generated import FinishReason, Generated, LogProbabilities, Step
from internvl_edge.runtime.tasks.generation.processors import LogitsProcessors
from internvl_edge.runtime.tasks.generation.ranking import ranked
from internvl_edge.runtime.tasks.generation.sampling import Sampler


def never() -> bool:
    """Return False: a generation that nobody cancels."""
    return False


def generate(
    decoder: Decoder,
    config: GenerationConfig,
    stages: Stages = UNMEASURED,
    *,
    repeated: np.ndarray | None = None,
    cancelled: Callable[[], bool] = never,
) -> Generated:
    """Return the ids that the decoder generates after its prompts.

    Args:
        decoder: the decoder, before its prefill; beams of a prompt share the cache until they differ.
        config: settings.
        stages: collector of times.
        repeated: ids ``[B, n]`` of the prompts where the penalty for repetition counts them.
        cancelled: function that is asked between steps and ends the generation once it returns True.

    Raises:
        BackendError: the decoder fails, or returns NaN, among which there is no best token.
    """
    if config.num_beams > 1:
        logits = _prompt_logits(decoder, cancelled)
        if logits is None:
            return _joined([], decoder.rows, config)
        processors = LogitsProcessors(config, _shape(logits), repeated)
        return beam_search(decoder, logits, config, processors, stages, cancelled)
    steps = list(next_tokens(decoder, config, stages, repeated=repeated, cancelled=cancelled))
    return _joined(steps, decoder.rows, config)


def next_tokens(
    decoder: Decoder,
    config: GenerationConfig,
    stages: Stages = UNMEASURED,
    *,
    repeated: np.ndarray | None = None,
    cancelled: Callable[[], bool] = never,
) -> Iterator[Step]:
    """Yield the next token of every row, step by step until the last row ends; see `generate`. There are no beams.

    A step is computed when its tokens are requested.
    """
    logits = _prompt_logits(decoder, cancelled)
    if logits is None:
        return
    processors = LogitsProcessors(config, _shape(logits), repeated)
    sampler = Sampler(config, len(logits)) if config.do_sample else None
    unfinished = np.ones(len(logits), bool)
    for written in range(config.max_new_tokens):
        with stages.stage(POSTPROCESS):
            scores = processors(logits, written)
            best = sampler.draw(scores) if sampler is not None else scores.argmax(axis=1)
            tokens = np.where(unfinished, best, config.pad_token_id)
            processors.add(tokens)
            unfinished = unfinished & ~np.isin(tokens, config.eos_token_ids)
            likely = _log_probabilities(logits, tokens, config.log_probabilities)
        yield Step(tokens, unfinished, likely)
        if not unfinished.any() or written + 1 == config.max_new_tokens or cancelled():
            return
        logits = decoder.feed(tokens)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return log-probabilities ``[R, V]`` in float64.

    Logits are fp32, and so are their exponentials; their sum over the vocabulary is float64, since a mean over the
    tokens of an answer is compared to the third digit.
    """
    result: np.ndarray = logits - _normalizer(logits)
    return result


def _normalizer(logits: np.ndarray) -> np.ndarray:
    """Return the logarithm ``[R, 1]`` of the sum of the exponentials of each row, in float64."""
    largest = logits.max(axis=-1, keepdims=True)
    total = np.exp(logits - largest).sum(axis=-1, keepdims=True, dtype=np.float64)
    result: np.ndarray = largest + np.log(total)
    return result


def _prompt_logits(decoder: Decoder, cancelled: Callable[[], bool]) -> np.ndarray | None:
    """Return the logits behind the prompt; None if the generation was cancelled between chunks."""
    logits = None
    for chunk in decoder.prefill():
        if cancelled():
            return None
        logits = chunk
    return logits


def _shape(logits: np.ndarray) -> tuple[int, int]:
    rows, vocabulary = logits.shape
    return rows, vocabulary


def _log_probabilities(logits: np.ndarray, tokens: np.ndarray, alternatives: int | None) -> LogProbabilities | None:
    if alternatives is None:
        return None
    count, normalizer = min(alternatives, logits.shape[1]), _normalizer(logits)
    ids = np.array([ranked(row, count) for row in logits], np.int64).reshape(len(logits), count)
    inside = np.minimum(tokens, logits.shape[1] - 1)  # the pad id of a finished row may be outside of the vocabulary
    chosen = np.take_along_axis(logits, inside[:, None], axis=1) - normalizer
    return LogProbabilities(chosen[:, 0], ids, np.take_along_axis(logits, ids, axis=1) - normalizer)


def _joined(steps: list[Step], rows: int, config: GenerationConfig) -> Generated:
    """Return the rows that the steps make; a row is cancelled if it neither stopped nor reached the limit."""
    ids = np.stack([step.tokens for step in steps], axis=1) if steps else np.zeros((rows, 0), np.int64)
    going = np.stack([step.unfinished for step in steps], axis=1) if steps else np.zeros((rows, 0), bool)
    stopped = ~going[:, -1] if steps else np.zeros(rows, bool)
    lengths = going.sum(axis=1) + stopped
    end: FinishReason = "length" if len(steps) == config.max_new_tokens else "cancelled"
    reasons: tuple[FinishReason, ...] = tuple("stop" if row else end for row in stopped)
    likely = tuple(step.log_probabilities for step in steps if step.log_probabilities is not None)
    return Generated(ids.astype(np.int64), lengths, reasons, log_probabilities=likely)
