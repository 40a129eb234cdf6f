"""What a generation gives: tokens step by step, or whole rows with the reasons of their ends."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

FinishReason = Literal["stop", "length", "cancelled"]
"""Reason of the end of a row: an id or a text that stops it, the limit of new tokens, or its caller."""


@dataclass(frozen=True, slots=True)
class LogProbabilities:
    """Natural log-probabilities of one step, by the model's own distribution, before any processor changes it."""

    chosen: np.ndarray
    """Log-probabilities of the generated tokens, ``[R]``."""
    ids: np.ndarray
    """Most likely tokens, most likely first, ``[R, N]``."""
    values: np.ndarray
    """Log-probabilities of the most likely tokens, ``[R, N]``."""


@dataclass(frozen=True, slots=True)
class Step:
    """The next token of every row; rows that have ended get the pad id."""

    tokens: np.ndarray
    """Ids ``[R]``."""
    unfinished: np.ndarray
    """Whether each row goes on after its token, ``[R]``."""
    log_probabilities: LogProbabilities | None = None


@dataclass(frozen=True, slots=True)
class Generated:
    """New ids of all rows."""

    ids: np.ndarray
    """Ids ``[B, new tokens]``, the id that stopped a row included; behind it the pad id."""
    lengths: np.ndarray
    """Number of new tokens of each row, ``[B]``."""
    finish_reasons: tuple[FinishReason, ...]
    scores: np.ndarray | None = None
    """Mean log-probability of each row by beam search, ``[B]``; None without beams."""
    log_probabilities: tuple[LogProbabilities, ...] = ()
    """One for each step, if they were asked for."""
