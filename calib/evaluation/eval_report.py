"""The figures of a bundle, and of the one that it is compared with."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Directions = Mapping[str, Mapping[str, float]]
"""``image_to_text`` and ``text_to_image`` -> R@k -> percent."""
Cosines = Mapping[str, Mapping[str, float]]
"""``images.c``, ``texts.en`` -> ``mean`` and ``min``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalReport:
    """Figures of one bundle, in percent."""

    pictures: int
    retrieval: Mapping[str, Mapping[str, Directions]] = field(default_factory=dict)
    """Mode -> language -> direction -> R@k."""
    zero_shot: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Mode -> language -> accuracy."""
    captions: Mapping[str, float] = field(default_factory=dict)
    """Language -> exact match."""
    skipped: tuple[tuple[str, str], ...] = ()
    """What was not measured, and why."""

    @property
    def mean_recall_at_1(self) -> float | None:
        """Mean over modes, languages and both directions; None where there is none."""
        languages = [directions for mode in self.retrieval.values() for directions in mode.values()]
        return mean(recalls["R@1"] for directions in languages for recalls in directions.values())

    @property
    def mean_zero_shot(self) -> float | None:
        """Mean over modes and languages; None where there is none."""
        return mean(percent for mode in self.zero_shot.values() for percent in mode.values())

    @property
    def mean_exact_match(self) -> float | None:
        """Mean over languages; None where there is none."""
        return mean(self.captions.values())

    def to_json(self) -> dict[str, Any]:
        """Return everything in types that JSON has."""
        return {
            "pictures": self.pictures,
            "mean_recall_at_1": self.mean_recall_at_1,
            "mean_zero_shot": self.mean_zero_shot,
            "mean_exact_match": self.mean_exact_match,
            "retrieval": self.retrieval,
            "zero_shot": self.zero_shot,
            "captions": self.captions,
            "skipped": [{"what": what, "reason": reason} for what, reason in self.skipped],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A bundle's figures, and those of the bundle that it is compared with."""

    report: EvalReport
    baseline: EvalReport | None = None
    cosines: Cosines | None = None

    def to_json(self) -> dict[str, Any]:
        """Return everything in types that JSON has."""
        baseline = self.baseline.to_json() if self.baseline else None
        return {"bundle": self.report.to_json(), "baseline": baseline, "cosines": self.cosines}


def mean(values: Iterable[float]) -> float | None:
    """Return the mean; None of nothing."""
    found = list(values)
    return float(np.mean(found)) if found else None
