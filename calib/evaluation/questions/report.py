"""Figures of answers to questions: how many are right, and how probable the right ones are, by kind."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from internvl_edge.calib.evaluation.questions.answers import Answer
from internvl_edge.calib.evaluation.questions.metrics import anls, exact_match, vqa_accuracy
from internvl_edge.runtime.inputs.questions import Question


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Figures of the questions whose answer is known; shares are percents."""

    questions: int
    exact_match: float
    vqa_accuracy: float
    anls: float
    log_probability: float
    """Mean natural logarithm of the probability of the expected answer and its stop token."""
    log_probability_per_token: float
    """Sum of these logarithms over all questions, divided by the number of their tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerReport:
    """Answers of one bundle, and their figures."""

    questions: int
    """Number of questions, also those without a known answer."""
    overall: Figures | None
    """None where no question has a known answer."""
    by_kind: Mapping[str, Figures] = field(default_factory=dict)
    """Figures of each kind, in order of their names; empty where rows name none."""
    answers: Sequence[Mapping[str, Any]] = ()
    """Every answer: ``id``, ``kind``, ``answer`` and, where it is known, ``right``, ``log_probability``, ``tokens``."""

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerEvaluation:
    """The report of a bundle, and that of the baseline it is compared with."""

    report: AnswerReport
    baseline: AnswerReport | None = None
    agreement: Mapping[str, float] | None = None
    """Percent of answers that equal the baseline's, by kind; ``""`` stands for all questions."""

    def to_json(self) -> dict[str, Any]:
        """Return the evaluation as JSON types."""
        baseline = self.baseline.to_json() if self.baseline else None
        return {"bundle": self.report.to_json(), "baseline": baseline, "agreement": self.agreement}


def answer_report(questions: Sequence[Question], answers: Sequence[Answer]) -> AnswerReport:
    """Return the figures of answers to questions of the same order."""
    pairs = [*zip(questions, answers, strict=True)]
    known = [(question, answer) for question, answer in pairs if question.answers]
    kinds = sorted({question.kind for question, _ in known if question.kind})
    return AnswerReport(
        questions=len(pairs),
        overall=_figures(known) if known else None,
        by_kind={kind: _figures([pair for pair in known if pair[0].kind == kind]) for kind in kinds},
        answers=[_row(question, answer) for question, answer in pairs],
    )


def agreement(questions: Sequence[Question], found: Sequence[Answer], others: Sequence[Answer]) -> dict[str, float]:
    """Return the percent of equal answers of two models by kind; ``""`` stands for all questions."""
    same = np.array([answer.text == other.text for answer, other in zip(found, others, strict=True)])
    kinds = [question.kind for question in questions]
    percents = {"": 100.0 * float(same.mean())}
    for kind in sorted(set(kinds) - {""}):
        percents[kind] = 100.0 * float(same[[each == kind for each in kinds]].mean())
    return percents


def _figures(pairs: Sequence[tuple[Question, Answer]]) -> Figures:
    logarithms = np.array([answer.log_probability for _, answer in pairs], np.float64)
    return Figures(
        questions=len(pairs),
        exact_match=_percent([exact_match(answer.text, question.answers) for question, answer in pairs]),
        vqa_accuracy=_percent([vqa_accuracy(answer.text, question.answers) for question, answer in pairs]),
        anls=_percent([anls(answer.text, question.answers) for question, answer in pairs]),
        log_probability=float(logarithms.mean()),
        log_probability_per_token=float(logarithms.sum() / sum(answer.tokens for _, answer in pairs)),
    )


def _percent(shares: Sequence[float]) -> float:
    return 100.0 * float(np.mean(shares))


def _row(question: Question, answer: Answer) -> dict[str, Any]:
    row: dict[str, Any] = {"id": question.name, "kind": question.kind, "answer": answer.text}
    if question.answers:
        row["right"] = bool(exact_match(answer.text, question.answers))
        row |= {"log_probability": answer.log_probability, "tokens": answer.tokens}
    return row
