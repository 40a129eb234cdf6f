"""When a warm-up is over, and whether a measurement drifts."""

import numpy as np
import pytest

from internvl_edge.runtime.latency.measure.steady_state import TOLERANCE, drift, is_steady, spread_of


@pytest.mark.parametrize(
    ("medians", "steady"),
    [
        ([9.0, 5.0, 5.0], False),
        ([9.0, 5.0, 5.05, 5.02], True),
        ([5.0, 5.0], False),
        ([5.0, 5.05, 5.11], False),
        ([5.0, 5.0, 5.0, 6.0], False),
    ],
)
def test_steady_is_when_the_last_windows_agree(medians: list[float], steady: bool) -> None:
    assert is_steady(medians) is steady


def test_the_spread_is_of_the_last_windows() -> None:
    assert spread_of([90.0, 4.0, 5.0, 5.0]) == pytest.approx(0.25)
    assert spread_of([4.0]) is None


def test_drift_compares_the_ends(rng: np.random.Generator) -> None:
    rising = np.linspace(10, 12, 90)
    assert drift(list(rising)) == pytest.approx(np.median(rising[60:]) / np.median(rising[:30]) - 1)
    assert abs(drift(list(10 + 0.1 * rng.standard_normal(900)))) < TOLERANCE
    assert drift([1.0, 9.0]) == 0.0
