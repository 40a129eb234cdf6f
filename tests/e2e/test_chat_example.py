"""The trained chat example, exported and answering its questions: against the reference's answers, one by one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from internvl_edge.calib.evaluation.questions.answers import Answer, answer_all
from internvl_edge.calib.evaluation.questions.report import AnswerReport, answer_report
from internvl_edge.runtime import InternVL
from internvl_edge.runtime.inputs.questions import Question, read_questions
from tests.e2e.conftest import ONE_THREAD
from tests.exports import Exports
from tests.tolerances import CHAT_ANSWERS, CHAT_FP16_POINTS, CHAT_LOG_PROBABILITY, CHAT_POINTS

PART = 8
"""Of so many questions one is asked here; `benchmarks/chat_answers.py` asks all of them."""


@pytest.fixture(scope="module")
def questions(chat_example: Path) -> list[Question]:
    return read_questions(chat_example / "data" / "test.jsonl")[::PART]


@pytest.fixture(scope="module")
def expected(chat_example: Path) -> dict[str, Any]:
    recorded = json.loads((chat_example / "expected.json").read_text(encoding="utf-8"))
    return {row["id"]: row for row in recorded["answers"]}


def answered(bundle: Path, questions: list[Question]) -> tuple[list[Answer], AnswerReport]:
    with InternVL.open(bundle, "onnxruntime", options=ONE_THREAD) as model:
        answers = answer_all(model, questions)
    return answers, answer_report(questions, answers)


def exact(questions: list[Question], expected: dict[str, Any], kind: str | None = None) -> float:
    """Return the percent of the reference's answers that are right."""
    chosen = [question for question in questions if kind in (None, question.kind)]
    return 100 * float(np.mean([expected[question.name]["ok"] for question in chosen]))


def test_fp32_answers_are_the_references(
    exports: Exports, chat_example: Path, questions: list[Question], expected: dict[str, Any]
) -> None:
    answers, report = answered(exports.bundle(chat_example / "checkpoint", dtype="fp32"), questions)
    pairs = [*zip(questions, answers, strict=True)]
    others = [question.name for question, answer in pairs if answer.text != expected[question.name]["got"]]
    assert len(others) <= max(1, (1 - CHAT_ANSWERS) * len(questions)), others
    assert report.overall is not None
    bound = max(CHAT_POINTS, 100 / len(questions))
    assert report.overall.exact_match == pytest.approx(exact(questions, expected), abs=bound)
    for kind, figures in report.by_kind.items():
        one = 100 / figures.questions
        assert figures.exact_match == pytest.approx(exact(questions, expected, kind), abs=one + 1e-6), kind
    assert [answer.tokens for answer in answers] == [expected[question.name]["tokens"] for question in questions]
    recorded = [expected[question.name]["logprob"] for question in questions]
    found = [answer.log_probability for answer in answers]
    np.testing.assert_allclose(np.array(found, np.float64), recorded, atol=CHAT_LOG_PROBABILITY)


def test_fp16_loses_nothing(
    exports: Exports, chat_example: Path, questions: list[Question], expected: dict[str, Any]
) -> None:
    _, report = answered(exports.bundle(chat_example / "checkpoint", dtype="fp16"), questions)
    recorded = np.mean([expected[question.name]["logprob"] for question in questions])
    assert report.overall is not None
    bound = max(CHAT_FP16_POINTS, 100 / len(questions))
    assert report.overall.exact_match == pytest.approx(exact(questions, expected), abs=bound)
    assert report.overall.log_probability == pytest.approx(recorded, abs=CHAT_LOG_PROBABILITY)
