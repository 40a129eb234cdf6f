"""Evaluation of the demo on the full test set, against the figures recorded with the reference implementation."""

import json
from pathlib import Path
from typing import Any

import pytest

from internvl_edge.calib.data.dataset import DataSet, open_data
from internvl_edge.calib.evaluation import (
    EvalOptions,
    EvalReport,
    Evaluation,
    evaluate,
    evaluate_bundle,
    evaluation_text,
)
from internvl_edge.runtime import InternVL
from tests.e2e.conftest import ONE_THREAD
from tests.tolerances import DEMO_POINTS


@pytest.fixture(scope="module")
def data(emoji: Path) -> DataSet:
    return open_data(emoji / "data" / "test.jsonl")


@pytest.fixture(scope="module")
def expected(emoji: Path) -> dict[str, Any]:
    return json.loads((emoji / "expected.json").read_text())["metrics"]["test"]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def report(demo_bundle: Path, data: DataSet) -> EvalReport:
    return evaluate(
        InternVL.open(demo_bundle, "onnxruntime", options=ONE_THREAD),
        data,
        EvalOptions(tasks=("retrieval", "zero_shot")),
    )


@pytest.fixture(scope="module")
def evaluation(demo_bundle: Path, emoji: Path) -> Evaluation:
    options = EvalOptions(sample_count=40, languages=("en",))
    return evaluate_bundle(demo_bundle, emoji / "data" / "test.jsonl", options, baseline=demo_bundle)


def _far(found: dict[str, Any], wanted: dict[str, Any], path: str = "") -> list[str]:
    """Return the figures that lie beyond the bound, or are on one side alone."""
    if found.keys() != wanted.keys():
        return [f"{path}: {sorted(found)} instead of {sorted(wanted)}"]
    far = []
    for key, value in found.items():
        if isinstance(value, dict):
            far += _far(value, wanted[key], f"{path}{key} ")
        elif abs(value - wanted[key]) > DEMO_POINTS:
            far.append(f"{path}{key}: {value:.2f} instead of {wanted[key]}")
    return far


def _recorded(figures: dict[str, Any]) -> dict[str, Any]:
    return {"c": figures["InternVL-C"], "g": figures["InternVL-G"]}


def test_retrieval_in_every_language(report: EvalReport, expected: dict[str, Any]) -> None:
    assert report.pictures == expected["images"]
    assert _far(report.to_json()["retrieval"], _recorded(expected["retrieval"])) == []


def test_zero_shot_in_every_language(report: EvalReport, expected: dict[str, Any]) -> None:
    assert _far(report.to_json()["zero_shot"], _recorded(expected["zeroshot_accuracy"])) == []
    assert report.skipped == ()


def test_captions(demo_bundle: Path, data: DataSet, expected: dict[str, Any]) -> None:
    options = EvalOptions(tasks=("captions",), languages=("ja",))
    found = evaluate(InternVL.open(demo_bundle, "onnxruntime", options=ONE_THREAD), data, options).to_json()["captions"]
    assert _far(found, {"ja": expected["caption_exact_match"]["greedy"]["ja"]}) == []


class TestBaseline:
    def test_a_bundle_does_not_differ_from_itself(self, evaluation: Evaluation) -> None:
        assert evaluation.report == evaluation.baseline
        assert evaluation.cosines is not None
        assert sorted(evaluation.cosines) == ["images.c", "images.g", "texts.en"]
        assert min(values["min"] for values in evaluation.cosines.values()) == pytest.approx(1)

    def test_text_and_json(self, evaluation: Evaluation) -> None:
        text = evaluation_text(evaluation.report, evaluation.baseline, evaluation.cosines)
        assert "G text to image R@1" in text
        assert "difference +0.00" in text
        content = json.loads(json.dumps(evaluation.to_json()))
        assert content["baseline"] == content["bundle"]

    def test_pictures_without_labels_are_compared_alone(self, demo_bundle: Path, pictures: Path) -> None:
        evaluation = evaluate_bundle(demo_bundle, pictures, EvalOptions(sample_count=2), baseline=demo_bundle)
        assert sorted(evaluation.cosines or ()) == ["images.c", "images.g"]
        assert evaluation.report.mean_recall_at_1 is None
