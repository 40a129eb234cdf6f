"""Axes of the report's charts: pixels, round ticks, round limits and short numbers, each worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_edge.calib.report.axes import Axis, linear_range, log_range, number, percent


@pytest.mark.parametrize(
    ("value", "pixel"), [(10.0, 100.0), (15.0, 80.0), (30.0, 20.0), (9.0, 100.0), (31.0, 20.0), (12.5, 90.0)]
)
def test_a_linear_axis_that_runs_upwards(value: float, pixel: float) -> None:
    assert Axis(low=10, high=30, start=100, end=20).at(value) == pytest.approx(pixel)


@pytest.mark.parametrize(("value", "pixel"), [(0.1, 0.0), (1.0, 50.0), (10.0, 100.0), (0.01, 0.0), (100.0, 100.0)])
def test_a_logarithmic_axis(value: float, pixel: float) -> None:
    assert Axis(low=0.1, high=10, start=0, end=100, log=True).at(value) == pytest.approx(pixel)


@pytest.mark.parametrize(
    ("low", "high", "count", "ticks"),
    [
        (0, 6, 6, [0, 1, 2, 3, 4, 5, 6]),
        (0, 10, 6, [0, 2, 4, 6, 8, 10]),
        (0, 30, 6, [0, 5, 10, 15, 20, 25, 30]),
        (0, 40, 6, [0, 10, 20, 30, 40]),
        (-0.3, 0.35, 6, [-0.2, 0, 0.2]),
        (3, 9, 2, [5]),
        (0, 700, 8, [0, 100, 200, 300, 400, 500, 600, 700]),
    ],
)
def test_linear_ticks_are_multiples_of_1_2_or_5(low: float, high: float, count: int, ticks: list[float]) -> None:
    assert Axis(low=low, high=high, start=0, end=1).ticks(count) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("low", "high", "count", "ticks"),
    [
        (1, 100, 6, [1, 2, 5, 10, 20, 50, 100]),
        (1, 1000, 6, [1, 3, 10, 30, 100, 300, 1000]),
        (1, 10000, 6, [1, 10, 100, 1000, 10000]),
        (1e-6, 1e6, 6, [1e-6, 1e-4, 1e-2, 1, 1e2, 1e4, 1e6]),
        (1e-6, 1e7, 6, [1e-6, 1e-3, 1, 1e3, 1e6]),
        (0.2, 50, 6, [0.3, 1, 3, 10, 30]),
        (1, 10, 3, [1, 2, 5, 10]),
        (1, 10, 2, [1, 3, 10]),
        (1, 10, 1, [1, 10]),
        (2, 20, 6, [2, 5, 10, 20]),
    ],
)
def test_logarithmic_ticks(low: float, high: float, count: int, ticks: list[float]) -> None:
    assert Axis(low=low, high=high, start=0, end=1, log=True).ticks(count) == pytest.approx(ticks)


def test_six_ticks_unless_told() -> None:
    assert Axis(low=0, high=6, start=0, end=1).ticks() == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        ([], (0, 1)),
        ([0.0], (0, 1)),
        ([3.0, 5.0], (0, 5)),
        ([-3.0, -1.0], (-3, 0)),
        ([-2.0, 4.0, float("nan"), float("inf")], (-2, 4)),
    ],
)
def test_a_linear_range_holds_zero(values: list[float], limits: tuple[float, float]) -> None:
    assert linear_range(values) == limits


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        ([], (0.1, 1)),
        ([1.0], (1, 10)),
        ([3.0], (2, 20)),
        ([3.0, 70.0], (2, 100)),
        ([0.06, 0.5], (0.05, 0.5)),
        ([5.0, 2.0, 41.0], (2, 50)),
        ([7.0, 8.0], (5, 50)),
        ([0.0, -1.0, float("inf"), 20.0, 200.0], (20, 200)),
        ([1.5, 15.0], (1, 20)),
        ([1e-5, 1e5], (1e-5, 1e5)),
        ([0.3 - 0.1, 4.0], (0.2, 5)),  # a little below 0.2, as numbers are
    ],
)
def test_a_logarithmic_range_has_round_limits(values: list[float], limits: tuple[float, float]) -> None:
    assert log_range(values) == pytest.approx(limits)


@given(st.lists(st.floats(1e-12, 1e12), min_size=1))
def test_a_logarithmic_range_holds_all_and_is_at_least_a_decade(values: list[float]) -> None:
    low, high = log_range(values)
    assert low <= min(values) * (1 + 1e-9)
    assert high >= max(values) * (1 - 1e-9)
    assert high >= 10 * low * (1 - 1e-9)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (float("-inf"), "–"),
        (0.0, "0"),
        (0.012345, "0.0123"),
        (0.001, "0.001"),
        (0.00099, "9.9e-4"),
        (12.345, "12.3"),
        (-12.345, "-12.3"),
        (999.4, "999"),
        (999.6, "1000"),
        (1000.0, "1000"),
        (1000.4, "1000"),
        (12300.0, "12300"),
        (999999.0, "999999"),
        (1e6, "1e6"),
        (1.25e7, "1.2e7"),
        (-2e-5, "-2e-5"),
        (1.2e-5, "1.2e-5"),
    ],
)
def test_numbers_have_about_three_digits(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(("share", "text"), [(None, "–"), (0.5, "50"), (0.00123, "0.123"), (1.0, "100")])
def test_shares_are_told_in_percent(share: float | None, text: str) -> None:
    assert percent(share) == text
