"""The QLLaMA kernels in Triton's interpreter against NumPy."""

import pytest
from qllama_attention_cases import CASES, Case, run_case


@pytest.mark.parametrize("case", [case for case in CASES if not case.large], ids=lambda case: case.id)
def test_equals_the_model(case: Case) -> None:
    assert run_case(case, "cpu") <= 1
