"""What only a GPU can show: plans deserialize, run, and agree with ONNX Runtime. `make gpu-check` runs these."""

from collections.abc import Callable

import numpy as np
import pytest

from internvl_edge.export.plans.build import BuildOptions
from internvl_edge.runtime.targets.estimate import Limits
from internvl_edge.runtime.tasks.caption_decoder import CaptionDecoder
from internvl_edge.runtime.tasks.generation.config import GenerationConfig
from internvl_edge.runtime.tasks.generation.search import generate
from tests.decoder_steps import Cache, cached
from tests.gpu.agree import Record, relative_differences, require_agreement
from tests.gpu.built import Built
from tests.gpu.cases import CASES, PROMPT_IDS, case_of, decoder_inputs
from tests.gpu.marks import GPU

pytestmark = GPU

_NEW_TOKENS = 12
"""Of a caption; each is a run of the plan with a longer past."""


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("limits", [Limits(), Limits(host_bytes=1)], ids=["whole", "parts"])
@pytest.mark.parametrize("precision", ["fp16", "int8", "fp8"])
def test_a_plan_agrees_with_onnx_runtime(
    built: Callable[..., Built], name: str, precision: str, limits: Limits, record_property: Record
) -> None:
    demo = built(precision, BuildOptions(limits=limits))
    case = case_of(demo.model, name)
    plans = demo.load(case.graph)
    found = plans.run(case.inputs, case.profile)
    record_property("median_ms", found.median_ms)
    record_property("plans", len(demo.record.graphs[case.graph].plans))
    require_agreement(found.values, case.expected, precision, record_property)


@pytest.mark.parametrize("precision", ["fp16", "int8", "fp8"])
def test_one_decoder_plan_writes_a_caption(
    built: Callable[..., Built], precision: str, record_property: Record
) -> None:
    """The prompt takes the first profile, every token after it the second, in one context, on the plan's own cache.

    Each run is held against ONNX Runtime on the same inputs, so that one near tie does not make another caption.
    """
    demo = built(precision, BuildOptions())
    plans = demo.load("decoder")
    query = case_of(demo.model, "query").expected
    runs: list[tuple[int, float, float]] = []

    def step(
        input_ids: np.ndarray, attention_mask: np.ndarray, position_ids: np.ndarray, cache: Cache
    ) -> tuple[np.ndarray, Cache]:
        inputs = decoder_inputs(cache, input_ids, attention_mask)
        np.testing.assert_array_equal(inputs["position_ids"], position_ids)
        expected = demo.model.run_graph("decoder", inputs)
        found = plans.run(inputs, profile=0 if input_ids.shape[1] > 1 else 1)
        shares = relative_differences(found.values, expected)
        runs.append((cache_rows(cache), found.median_ms, max(shares.values())))
        require_agreement(found.values, expected, precision, lambda name, value: None)
        return found.values["logits"], {name: found.values[name] for name in expected if name != "logits"}

    cache = {name: values for name, values in query.items() if name.startswith("present.")}
    config = GenerationConfig(max_new_tokens=_NEW_TOKENS, min_new_tokens=_NEW_TOKENS)
    written = generate(CaptionDecoder(cached(step, cache), cache_rows(cache), PROMPT_IDS), config)
    pasts, latencies, differences = zip(*runs, strict=True)
    record_property("prompt_ms", latencies[0])
    record_property("step_ms", float(np.median(latencies[1:])))
    record_property("largest_relative_difference", max(differences))
    assert pasts == (cache_rows(cache), *range(cache_rows(cache) + PROMPT_IDS.shape[1], pasts[-1] + 1))
    assert written.ids.shape == (len(PROMPT_IDS), _NEW_TOKENS)


def cache_rows(cache: Cache) -> int:
    """Return how many rows a cache ``[R, heads, past, head]`` holds."""
    return next(iter(cache.values())).shape[2]
