"""Questions of a table answered by a model that follows a script, and by another one as the baseline."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from internvl_edge.calib.evaluation.questions import run as run_module
from internvl_edge.calib.evaluation.questions.answers import answer_all
from internvl_edge.calib.evaluation.questions.run import AnswerOptions, evaluate_answers
from internvl_edge.runtime import InternVL
from internvl_edge.runtime.errors import BundleError, InputError
from internvl_edge.runtime.inputs.questions import read_questions
from tests.unit.runtime.chat_fakes import LIKELY, scripted_chat
from tests.unit.runtime.embed_fakes import fake_model
from tests.unit.runtime.tiny_bundle import MODEL, write_bundle

TOKEN = LIKELY - float(np.log(np.exp(LIKELY) + 299))


def yes_if_asked(prompt: str) -> str:
    return "yes" if "Is it?" in prompt.split("<|im_start|>user\n")[-1] else "no"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    rows: Sequence[dict[str, Any]] = [
        {"id": "a", "question": "<image>\nIs it?", "images": ["a.png"], "answer": "yes", "kind": "is"},
        {"id": "b", "question": "What?", "answer": "no", "kind": "what"},
        {
            "id": "c",
            "question": "Is it?",
            "answer": "no",
            "kind": "is",
            "history": [["<image>\nA", "B"]],
            "images": "a.png",
        },
        {"id": "d", "question": "Why?"},
    ]
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, InternVL]:
    models = {
        "one": scripted_chat(tmp_path / "one", yes_if_asked)[0],
        "other": scripted_chat(tmp_path / "other", lambda _prompt: "no")[0],
    }
    monkeypatch.setattr(run_module, "_opened", lambda bundle, _options, bf16: models[bundle.name])
    return models


def test_answers_and_their_probability(bundles: dict[str, InternVL], table: Path) -> None:
    answers = answer_all(bundles["one"], read_questions(table))
    assert [answer.text for answer in answers] == ["yes", "no", "yes", "no"]
    assert [answer.tokens for answer in answers] == [4, 3, 3, 0]
    assert answers[0].log_probability == pytest.approx(4 * TOKEN, abs=1e-4)
    # n where y comes, o where e comes, the end where s comes
    assert answers[2].log_probability == pytest.approx(3 * (TOKEN - LIKELY), abs=1e-4)
    assert answers[3].log_probability is None


def test_figures_and_agreement(bundles: dict[str, InternVL], table: Path) -> None:
    found = evaluate_answers(Path("one"), table, AnswerOptions(), baseline=Path("other"))
    assert found.report.overall is not None
    assert found.report.overall.exact_match == pytest.approx(200 / 3)
    assert {kind: each.exact_match for kind, each in found.report.by_kind.items()} == {"is": 50.0, "what": 100.0}
    assert found.agreement == {"": 50.0, "is": 0.0, "what": 100.0}


def test_a_part_is_spread_over_the_table(bundles: dict[str, InternVL], table: Path) -> None:
    found = evaluate_answers(Path("one"), table, AnswerOptions(sample_count=2))
    assert [row["id"] for row in found.report.answers] == ["a", "c"]


def test_all_pictures_that_cannot_be_read_are_named_first(bundles: dict[str, InternVL], table: Path) -> None:
    table.with_name("a.png").write_text("no")
    with pytest.raises(InputError, match=r"^unreadable pictures: \S*a.png \(not a picture\)"):
        evaluate_answers(Path("one"), table, AnswerOptions())


def test_a_question_that_the_model_does_not_take_is_named(tmp_path: Path, table: Path) -> None:
    model, _, _ = scripted_chat(tmp_path / "small", yes_if_asked, max_context=20)
    with pytest.raises(InputError, match=r"^question a: chat: the prompt has \d+ tokens, 2 of them for 1 tiles"):
        answer_all(model, read_questions(table))


def test_without_answers_a_baseline_is_needed(bundles: dict[str, InternVL], tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "Why?"}\n')
    with pytest.raises(InputError, match=r"q.jsonl: no row has an `answer`; add them, or give a baseline"):
        evaluate_answers(Path("one"), path, AnswerOptions())
    assert evaluate_answers(Path("one"), path, AnswerOptions(), Path("other")).agreement == {"": 100.0}


def test_a_bundle_without_a_language_model_is_refused(
    tmp_path: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_model(write_bundle(tmp_path / "b", ("vision",), MODEL, None), monkeypatch)
    with pytest.raises(BundleError, match="has no language model; export"):
        evaluate_answers(tmp_path / "b", table, AnswerOptions())


def test_a_sample_count_below_one() -> None:
    with pytest.raises(InputError, match="sample_count: 0 questions"):
        AnswerOptions(sample_count=0)
