"""Evaluation of the demo beside a baseline; test_demo_metrics holds its figures against the recorded ones."""

import json
from pathlib import Path

import pytest

from internvl_edge.calib.evaluation import (
    EvalOptions,
    Evaluation,
    evaluate_bundle,
    evaluation_text,
)


@pytest.fixture(scope="module")
def evaluation(demo_bundle: Path, emoji: Path) -> Evaluation:
    options = EvalOptions(sample_count=40, languages=("en",))
    return evaluate_bundle(demo_bundle, emoji / "data" / "test.jsonl", options, baseline=demo_bundle)


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
