"""Kernels of `attention_pool` in Triton's interpreter against NumPy."""

import pytest
from attention_pool_cases import CASES, Case, run_case
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.mark.parametrize("case", [case for case in CASES if not case.large], ids=lambda case: case.id)
def test_equals_the_model(case: Case) -> None:
    assert run_case(case, "cpu") <= 1


@settings(max_examples=15)
@given(
    case=st.builds(
        Case,
        id=st.just("random"),
        batch=st.integers(1, 8),
        keys=st.integers(1, 90),
        heads=st.integers(1, 3),
        amplitude=st.floats(0.1, 10.0),
        splits=st.sampled_from([1, 2, 4]),
        key_tile=st.sampled_from([16, 32]),
    ),
    seed=st.integers(0, 99),
)
def test_equals_the_model_at_any_size(case: Case, seed: int) -> None:
    assert run_case(case, "cpu", seed) <= 1
