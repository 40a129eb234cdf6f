"""The InternViT kernels in Triton's interpreter against NumPy."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.parity.plugins.vit_attention_cases import CASES, Case, run_case


@pytest.mark.parametrize("case", [case for case in CASES if not case.large], ids=lambda case: case.id)
def test_equals_the_model(case: Case) -> None:
    assert run_case(case, "cpu") <= 1


@settings(max_examples=20)
@given(
    case=st.builds(
        Case,
        id=st.just("random"),
        batch=st.integers(1, 8),
        rows=st.integers(1, 70),
        heads=st.integers(1, 3),
        norm=st.booleans(),
        type=st.sampled_from(["fp16", "int8", "fp8"]),
        out=st.sampled_from(["fp16", "int8", "fp8"]),
        amplitude=st.floats(0.1, 10.0),
        query_tile=st.sampled_from([16, 32, 64]),
        key_tile=st.sampled_from([16, 32, 64]),
    ),
    seed=st.integers(0, 99),
)
def test_equals_the_model_at_any_size(case: Case, seed: int) -> None:
    assert run_case(case, "cpu", seed) <= 1
