"""Kernels of packed heads, `query_cross_attention` and `attention_pool`, in Triton's interpreter against NumPy."""

from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.parity.plugins import attention_pool_cases, query_cross_attention_cases

KERNELS = (query_cross_attention_cases, attention_pool_cases)
SMALL = [pytest.param(module, case, id=case.id) for module in KERNELS for case in module.CASES if not case.large]


@pytest.mark.parametrize(("module", "case"), SMALL)
def test_equals_the_model(module: ModuleType, case: object) -> None:
    assert module.run_case(case, "cpu") <= 1


@pytest.mark.parametrize("module", KERNELS, ids=["cross", "pool"])
@settings(max_examples=15)
@given(
    sizes=st.fixed_dictionaries(
        {
            "batch": st.integers(1, 8),
            "keys": st.integers(1, 90),
            "heads": st.integers(1, 3),
            "amplitude": st.floats(0.1, 10.0),
            "splits": st.sampled_from([1, 2, 4]),
            "key_tile": st.sampled_from([16, 32]),
        }
    ),
    seed=st.integers(0, 99),
)
def test_equals_the_model_at_any_size(module: ModuleType, sizes: dict[str, object], seed: int) -> None:
    assert module.run_case(module.Case(id="random", **sizes), "cpu", seed) <= 1
