"""Figures of an evaluated bundle, and of the baseline that it is compared with."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Directions = Mapping[str, Mapping[str, float]]
"""``image_to_text`` and ``text_to_image`` -> R@k -> percent."""
Cosines = Mapping[str, Mapping[str, float]]
"""Features, as ``images.c`` or ``texts.en`` -> ``mean`` and ``min`` of the cosine."""


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
    """Tasks that were not measured, each with the reason."""

    @property
    def mean_recall_at_1(self) -> float | None:
        """Mean R@1 over modes, languages and both directions; None if there is none."""
        languages = [directions for mode in self.retrieval.values() for directions in mode.values()]
        return mean(recalls["R@1"] for directions in languages for recalls in directions.values())

    @property
    def mean_zero_shot(self) -> float | None:
        """Mean zero-shot accuracy over modes and languages; None if there is none."""
        return mean(percent for mode in self.zero_shot.values() for percent in mode.values())

    @property
    def mean_exact_match(self) -> float | None:
        """Mean exact match over languages; None if there is none."""
        return mean(self.captions.values())

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
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
    """Figures of a bundle, and of the baseline that it is compared with."""

    report: EvalReport
    baseline: EvalReport | None = None
    cosines: Cosines | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the evaluation as JSON types."""
        baseline = self.baseline.to_json() if self.baseline else None
        return {"bundle": self.report.to_json(), "baseline": baseline, "cosines": self.cosines}


def mean(values: Iterable[float]) -> float | None:
    """Return the mean; None if there are no values."""
    found = list(values)
    return float(np.mean(found)) if found else None
