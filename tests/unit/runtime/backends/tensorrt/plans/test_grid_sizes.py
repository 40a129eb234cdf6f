"""Grids as formulas."""

import json

import pytest

from internvl_edge.runtime.backends.tensorrt.plans.grid_sizes import (
    Size,
    evaluate,
    formula_from_json,
    formula_json,
    symbol,
)

N, B = symbol("N"), symbol("B")


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        (N + 3, 260),
        (3 + N, 260),
        (N - 7, 250),
        (300 - N, 43),
        (B * N, 514),
        (25 * B, 50),
        (N // 64, 4),
        (1000 // N, 3),
        (-(-N // 64), 5),
        (-(-N // B), 129),
        ((N + 63) // 64 * B, 10),
    ],
)
def test_a_formula_is_what_python_computes(formula: Size, expected: int) -> None:
    assert formula.evaluate({"N": 257, "B": 2}) == expected
    assert evaluate(formula_from_json(json.loads(json.dumps(formula_json(formula)))), {"N": 257, "B": 2}) == expected


def test_rounding_up_divides_nothing_negative() -> None:
    assert (-(-N // 64)).to_json() == ((N + 64 - 1) // 64).to_json()


@pytest.mark.parametrize("question", [lambda: max(N, 1), lambda: N == 1, lambda: 1 if N else 2])
def test_a_question_about_a_size_is_refused(question: object) -> None:
    with pytest.raises(TypeError, match="cannot compare sizes"):
        question()  # type: ignore[operator]


def test_a_number_stays_a_number() -> None:
    assert formula_json(3) == 3
    assert formula_from_json(3) == 3
    assert evaluate(3, {}) == 3
