"""Figures by kind, agreement with a baseline, and the tables that show them, against values worked out by hand."""

import json
import math

import pytest

from internvl_edge.calib.evaluation.questions.answers import Answer
from internvl_edge.calib.evaluation.questions.report import AnswerEvaluation, agreement, answer_report
from internvl_edge.calib.evaluation.questions.text import answers_text
from internvl_edge.runtime.inputs.questions import Question

QUESTIONS = [
    Question(name="1", text="Which?", answers=("two dogs",), kind="name"),
    Question(name="2", text="Which?", answers=("cat",), kind="name"),
    Question(name="3", text="How many?", answers=("2",), kind="count"),
    Question(name="4", text="Why?"),
]
ANSWERS = [
    Answer(text="2 dogs", log_probability=-1.0, tokens=2),
    Answer(text="cat", log_probability=-0.5, tokens=2),
    Answer(text="3", log_probability=-3.0, tokens=1),
    Answer(text="because"),
]


def test_figures_of_each_kind_and_of_all() -> None:
    report = answer_report(QUESTIONS, ANSWERS)
    assert report.questions == 4
    name, count = report.by_kind["name"], report.by_kind["count"]
    assert list(report.by_kind) == ["count", "name"]
    assert (name.questions, name.exact_match, name.vqa_accuracy) == (2, 50.0, 100.0)
    assert name.anls == pytest.approx(100 * (1 + (1 - 3 / 8)) / 2)
    assert (name.log_probability, name.log_probability_per_token) == (-0.75, -1.5 / 4)
    assert (count.exact_match, count.anls, count.log_probability) == (0.0, 0.0, -3.0)
    overall = report.overall
    assert overall is not None
    assert overall.questions == 3
    assert overall.exact_match == pytest.approx(100 / 3)
    assert overall.log_probability == pytest.approx(-1.5)
    assert overall.log_probability_per_token == pytest.approx(-4.5 / 5)


def test_every_answer_is_in_the_json() -> None:
    content = json.loads(json.dumps(AnswerEvaluation(report=answer_report(QUESTIONS, ANSWERS)).to_json()))
    answers = content["bundle"]["answers"]
    assert answers[1] == {
        "id": "2",
        "kind": "name",
        "answer": "cat",
        "right": True,
        "log_probability": -0.5,
        "tokens": 2,
    }
    assert answers[3] == {"id": "4", "kind": "", "answer": "because"}
    assert (content["baseline"], content["agreement"]) == (None, None)


def test_agreement_counts_all_questions() -> None:
    others = [Answer(text="2 dogs"), Answer(text="dog"), Answer(text="3"), Answer(text="why not")]
    assert agreement(QUESTIONS, ANSWERS, others) == {"": 50.0, "count": 100.0, "name": 50.0}


def test_the_table_has_a_line_for_each_kind_and_one_for_all() -> None:
    text = answers_text(AnswerEvaluation(report=answer_report(QUESTIONS, ANSWERS)))
    title, heading, *rows, _, note = text.splitlines()
    assert title.startswith("4 questions, percent")
    assert heading.split("  ")[-1] == "a token"
    assert [row.split() for row in rows] == [
        ["count", "1", "0.0", "0.0", "0.0", "-3.000", "-3.000"],
        ["name", "2", "50.0", "100.0", "81.2", "-0.750", "-0.375"],
        ["all", "3", "33.3", "66.7", "54.2", "-1.500", "-0.900"],
    ]
    assert note == "1 questions have no `answer`: they count for the baseline's agreement alone"


def test_differences_to_the_baseline() -> None:
    others = [ANSWERS[0], Answer(text="dog", log_probability=-1.5, tokens=2), *ANSWERS[2:]]
    evaluation = AnswerEvaluation(
        report=answer_report(QUESTIONS, ANSWERS),
        baseline=answer_report(QUESTIONS, others),
        agreement=agreement(QUESTIONS, ANSWERS, others),
    )
    rows = [line.split() for line in answers_text(evaluation).split("\n\n")[1].splitlines()[2:]]
    assert rows == [
        ["count", "100.0", "+0.0", "+0.0", "+0.0", "+0.000", "+0.000"],
        ["name", "50.0", "+50.0", "+50.0", "+50.0", "+0.500", "+0.250"],
        ["all", "75.0", "+33.3", "+33.3", "+33.3", "+0.333", "+0.200"],
    ]


def test_without_known_answers_the_agreement_alone_is_shown() -> None:
    questions, answers = [QUESTIONS[3]], [ANSWERS[3]]
    report = answer_report(questions, answers)
    assert report.overall is None
    evaluation = AnswerEvaluation(report=report, baseline=report, agreement=agreement(questions, answers, answers))
    table = answers_text(evaluation).split("\n\n")[0]
    assert [line.split() for line in table.splitlines()[1:]] == [["same", "answer"], ["all", "100.0"]]


def test_a_logarithm_is_a_natural_one() -> None:
    report = answer_report(QUESTIONS[:1], [Answer(text="", log_probability=math.log(0.5), tokens=1)])
    assert report.overall is not None
    assert math.exp(report.overall.log_probability) == pytest.approx(0.5)
