"""Limits, processors and sampling of a generation, checked where they enter."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from internvl_edge.runtime.errors import InputError

MOST_BEAMS = 64
"""Most beams of a prompt. Each has a row of the decoder and a cache of its own; the reference uses 5."""
MOST_LOG_PROBABILITIES = 20
"""Most alternatives of a token that are returned with their log-probabilities, as in other servers of chat models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """Settings of one generation. Lengths count new tokens; defaults of sampling are those of transformers.

    Raises:
        InputError: settings that contradict each other or are out of range, all of them named.
    """

    num_beams: int = 1
    min_new_tokens: int = 0
    max_new_tokens: int = 30
    eos_token_ids: tuple[int, ...] = (2,)
    """Ids that end a row; none means that only `max_new_tokens` ends it."""
    pad_token_id: int = 0
    """Id that pads rows which are finished."""
    forbidden_ids: tuple[int, ...] = ()
    """Ids that are never generated, such as those that the tokenizer lacks."""
    repetition_penalty: float = 1.0
    """Factor by which ids that have occurred get less likely; 1 changes nothing."""
    do_sample: bool = False
    """Whether tokens are drawn at random; the settings below apply only then."""
    temperature: float = 1.0
    top_k: int = 50
    """Number of most likely tokens that are drawn from; 0 means all."""
    top_p: float = 1.0
    """Probability of the smallest set of most likely tokens that is drawn from."""
    min_p: float = 0.0
    """Least probability of a token that is drawn, relative to that of the most likely one."""
    seed: int | None = None
    """Seed of the drawing. Equal seeds give equal answers on the same machine; None means another one each time."""
    log_probabilities: int | None = None
    """Number of alternatives that are returned with each token and its log-probability; None means no probabilities."""

    def __post_init__(self) -> None:
        """Check all settings."""
        remedies = {
            f"give 1 to {MOST_BEAMS} beams, 1 token or more and a minimum below the maximum": [*self._limits()],
            "give values in these ranges": [*self._processors()],
        }
        if wrong := [finding for findings in remedies.values() for finding in findings]:
            remedy = " and ".join(remedy for remedy, findings in remedies.items() if findings)
            raise InputError(f"generation: {', '.join(wrong)}; {remedy}")

    def _limits(self) -> Iterator[str]:
        yield from (
            f"{name} is {getattr(self, name)}" for name in ("num_beams", "max_new_tokens") if getattr(self, name) < 1
        )
        if self.num_beams > MOST_BEAMS:
            yield f"num_beams is {self.num_beams}"
        if not 0 <= self.min_new_tokens <= max(self.max_new_tokens, 1):
            yield f"min_new_tokens is {self.min_new_tokens} with max_new_tokens {self.max_new_tokens}"
        yield from (f"an eos_token_id is {token}" for token in self.eos_token_ids if token < 0)

    def _processors(self) -> Iterator[str]:
        if not 0 < self.repetition_penalty < math.inf:
            yield f"repetition_penalty is {self.repetition_penalty}, not above 0"
        alternatives = self.log_probabilities
        if alternatives is not None and not 0 <= alternatives <= MOST_LOG_PROBABILITIES:
            yield f"log_probabilities is {alternatives}, not 0 to {MOST_LOG_PROBABILITIES}"
        if self.num_beams > 1:
            unfit = {"do_sample": self.do_sample, "log_probabilities": alternatives is not None}
            yield from (f"{name} with {self.num_beams} beams, not with one" for name, given in unfit.items() if given)
        if not self.do_sample:
            return
        if not 0 < self.temperature < math.inf:
            yield f"temperature is {self.temperature}, not above 0 (the most likely token is taken without do_sample)"
        if self.top_k < 0:
            yield f"top_k is {self.top_k}, not 0 or more"
        yield from (
            f"{name} is {getattr(self, name)}, not 0 to 1"
            for name in ("top_p", "min_p")
            if not 0 <= getattr(self, name) <= 1
        )
