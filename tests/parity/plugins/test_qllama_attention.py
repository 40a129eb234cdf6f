"""The QLLaMA kernels in Triton's interpreter against NumPy."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.parity.plugins.qllama_attention_cases import CASES, CODED, Case, run_case

RANDOM = Case(id="random")


@pytest.mark.parametrize("case", [case for case in CASES if not case.large], ids=lambda case: case.id)
def test_equals_the_model(case: Case) -> None:
    assert run_case(case, "cpu") <= 1


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a decode step or several rows, with or without a cache.

    Codes of v and of the cache have one scale, and so one type; a product with FP8 wants 32 keys.
    """
    decode = draw(st.booleans())
    kind = draw(st.sampled_from(["fp16", "fp16", "bf16", "int8", "fp8"]))
    wide = "fp16" if kind in CODED else kind
    caches = [kind] if kind in CODED else [wide, "int8", "fp8"]
    cache = draw(st.sampled_from(caches if decode else ["", *caches]))
    return replace(
        RANDOM,
        batch=draw(st.integers(1, 8)),
        heads=draw(st.integers(1, 3)),
        rows=1 if decode else draw(st.integers(1, 40)),
        past=draw(st.integers(0, 60)) if cache else 0,
        spare=draw(st.integers(0, 4)),
        type=kind,
        cache=cache,
        out=draw(st.sampled_from([wide, "int8", "fp8"])),
        copy=bool(cache) and draw(st.booleans()),
        causal=draw(st.booleans()),
        packed=draw(st.booleans()),
        positions=draw(st.booleans()),
        mask=draw(st.sampled_from(["", "padding", "holes"])),
        splits=draw(st.sampled_from([1, 2, 4])) if decode else 0,
        query_tile=draw(st.sampled_from([16, 32])),
        key_tile=32 if "fp8" in (kind, cache) else draw(st.sampled_from([16, 32])),
    )


@settings(max_examples=40)
@given(case=cases(), seed=st.integers(0, 99))
def test_equals_the_model_at_any_size(case: Case, seed: int) -> None:
    assert run_case(case, "cpu", seed) <= 1
