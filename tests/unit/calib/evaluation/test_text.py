"""The report of an evaluation as text, line by line, and the means that stand in it."""

import pytest

from internvl_edge.calib.evaluation.eval_report import EvalReport, Evaluation, mean
from internvl_edge.calib.evaluation.text import evaluation_text

ENGLISH = {"image_to_text": {"R@1": 50.0, "R@5": 100.0}, "text_to_image": {"R@1": 25.0, "R@5": 75.0}}
GERMAN = {"image_to_text": {"R@1": 10.0, "R@5": 20.0}, "text_to_image": {"R@1": 15.0, "R@5": 30.0}}
REPORT = EvalReport(
    pictures=4,
    retrieval={"c": {"en": ENGLISH, "de": GERMAN}, "g": {"en": ENGLISH}},
    zero_shot={"c": {"en": 60.0, "": 40.0}},
    captions={"en": 75.0},
    skipped=(("captions", "no prompt in de"),),
)


def test_every_figure_in_a_column_of_its_language() -> None:
    assert evaluation_text(REPORT).splitlines() == [
        "4 pictures, percent",
        "                         en    de     -   mean",
        "C image to text R@1    50.0  10.0     -   30.0",
        "C image to text R@5   100.0  20.0     -   60.0",
        "C text to image R@1    25.0  15.0     -   20.0",
        "C text to image R@5    75.0  30.0     -   52.5",
        "G image to text R@1    50.0     -     -   50.0",
        "G image to text R@5   100.0     -     -  100.0",
        "G text to image R@1    25.0     -     -   25.0",
        "G text to image R@5    75.0     -     -   75.0",
        "C zero-shot accuracy   60.0     -  40.0   50.0",
        "caption exact match    75.0     -     -   75.0",
        "",
        "mean R@1 29.17",
        "mean zero-shot accuracy 50.00",
        "mean caption exact match 75.00",
        "",
        "skipped captions: no prompt in de",
    ]


def test_against_a_baseline_with_other_figures() -> None:
    baseline = EvalReport(
        pictures=4,
        zero_shot={"c": {"en": 62.0}},
        captions={"de": 75.0},
        skipped=(("captions", "no prompt in de"), ("retrieval", "no text graph")),
    )
    text = evaluation_text(REPORT, baseline, {"images.c": {"mean": 0.5, "min": -0.25}})
    assert text.splitlines()[13:] == [
        "difference to the baseline, points",
        "                        en  mean",
        "C zero-shot accuracy  -2.0  -2.0",
        "",
        "mean R@1 29.17",
        "mean zero-shot accuracy 50.00",
        "mean caption exact match 75.00",
        "",
        "cosine to the baseline        mean         min",
        "images.c                 0.5000000  -0.2500000",
        "",
        "skipped captions: no prompt in de",
        "",
        "skipped retrieval of the baseline: no text graph",
    ]


def test_means_over_the_same_figures_are_compared() -> None:
    baseline = EvalReport(pictures=4, zero_shot={"c": {"de": 20.0, "en": 41.0}})
    text = evaluation_text(EvalReport(pictures=4, zero_shot={"c": {"en": 40.0, "de": 20.0}}), baseline)
    assert text.splitlines()[-1] == "mean zero-shot accuracy 30.00, baseline 30.50, difference -0.50"


def test_nothing_measured_is_nothing_said() -> None:
    assert evaluation_text(EvalReport(pictures=4)) == ""
    assert evaluation_text(EvalReport(pictures=4), EvalReport(pictures=4)) == ""


def test_means() -> None:
    assert REPORT.mean_recall_at_1 == pytest.approx((50 + 25 + 10 + 15 + 50 + 25) / 6)
    assert (REPORT.mean_zero_shot, REPORT.mean_exact_match) == (50.0, 75.0)
    empty = EvalReport(pictures=0)
    assert (empty.mean_recall_at_1, empty.mean_zero_shot, empty.mean_exact_match) == (None, None, None)
    assert (mean([]), mean([1.0, 2.0])) == (None, 1.5)


def test_reports_as_json() -> None:
    plain = EvalReport(pictures=3, captions={"en": 50.0}, skipped=(("a", "b"),))
    content = {
        "pictures": 3,
        "mean_recall_at_1": None,
        "mean_zero_shot": None,
        "mean_exact_match": 50.0,
        "retrieval": {},
        "zero_shot": {},
        "captions": {"en": 50.0},
        "skipped": [{"what": "a", "reason": "b"}],
    }
    assert Evaluation(report=plain).to_json() == {"bundle": content, "baseline": None, "cosines": None}
    compared = Evaluation(report=plain, baseline=plain, cosines={"texts.en": {"mean": 1.0, "min": 1.0}})
    assert compared.to_json() == {
        "bundle": content,
        "baseline": content,
        "cosines": {"texts.en": {"mean": 1.0, "min": 1.0}},
    }
