"""Scores of single answers, against values worked out by hand."""

import pytest

from internvl_edge.calib.evaluation.questions.metrics import anls, edit_distance, exact_match, normalised, vqa_accuracy


@pytest.mark.parametrize(
    ("found", "expected", "score"),
    [(" fruit\n", ["fruit"], 1.0), ("Fruit", ["fruit"], 0.0), ("b", ["a", " b"], 1.0), ("", ["x"], 0.0)],
)
def test_exact_match_knows_white_space_alone(found: str, expected: list[str], score: float) -> None:
    assert exact_match(found, expected) == score


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Red Car", "red car"),
        ("two apples", "2 apples"),
        ("None", "0"),
        ("red,  and blue?", "red and blue"),
        ("left/right", "left right"),
        ("yes !", "yes"),
        ("3.5 m.", "3.5 m"),
        ("it doesnt", "it doesn't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("the dog's\nbone", "dog 's bone"),
        ("t-shirt", "t shirt"),
    ],
)
def test_answers_are_normalised_as_in_vqa(text: str, expected: str) -> None:
    assert normalised(text) == expected


class TestVqaAccuracy:
    def test_three_of_ten_people_make_an_answer_right_nine_times_of_ten(self) -> None:
        expected = ["red"] * 3 + ["blue"] * 7
        # leaving out one of the three leaves two thirds, leaving out one of the seven leaves all three
        assert vqa_accuracy("Red.", expected) == pytest.approx((3 * 2 / 3 + 7) / 10)
        assert vqa_accuracy("blue", expected) == 1.0

    def test_one_of_ten_counts_three_tenths(self) -> None:
        assert vqa_accuracy("a dog", ["dog"] + ["cat"] * 9) == pytest.approx(9 * (1 / 3) / 10)

    def test_an_answer_that_nobody_gave_is_wrong(self) -> None:
        assert vqa_accuracy("green", ["red"] * 10) == 0.0

    @pytest.mark.parametrize("expected", [["two"], ["three", "2"], ["2", "3", "4"]])
    def test_with_few_answers_one_match_is_enough(self, expected: list[str]) -> None:
        assert vqa_accuracy("Two", expected) == 1.0


class TestAnls:
    def test_the_nearest_answer_counts(self) -> None:
        assert anls("Strwberry", ["raspberry", "strawberry"]) == pytest.approx(0.9)

    def test_less_than_half_alike_is_wrong(self) -> None:
        assert anls("abcd", ["abxy"]) == 0.5
        assert anls("abcde", ["abxyz"]) == 0.0

    def test_case_and_white_space_do_not_count(self) -> None:
        assert anls(" Two \n  Boats", ["two boats"]) == 1.0

    def test_an_empty_answer(self) -> None:
        assert anls("", ["x"]) == 0.0
        assert anls("", [""]) == 1.0


@pytest.mark.parametrize(
    ("a", "b", "steps"), [("kitten", "sitting", 3), ("", "ab", 2), ("ab", "", 2), ("same", "same", 0), ("ab", "ba", 2)]
)
def test_edit_distance(a: str, b: str, steps: int) -> None:
    assert edit_distance(a, b) == steps
