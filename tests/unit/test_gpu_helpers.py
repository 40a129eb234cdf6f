"""Helpers of the GPU checks, without a GPU: cases that fit the profiles, targets by name, free memory, bounds."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from internvl_edge.export.engine.profiles import AxisRanges, profiles_for
from internvl_edge.runtime import InternVL
from internvl_edge.runtime.backends.cuda import Device
from internvl_edge.runtime.tasks.caption_decoder import CaptionDecoder
from internvl_edge.runtime.tasks.generation.config import GenerationConfig
from internvl_edge.runtime.tasks.generation.search import generate
from tests.decoder_steps import Cache, cached
from tests.exports import Exports
from tests.gpu.agree import relative_differences, require_agreement
from tests.gpu.cases import CASES, PROMPT_IDS, case_of, decoder_inputs
from tests.gpu.device_targets import device_target
from tests.gpu.free_memory import FreeMemory, lacking_for_large

GIB = 1 << 30


@pytest.fixture(scope="module")
def model(exports: Exports, golden_a: Path) -> InternVL:
    return InternVL.open(exports.bundle(golden_a / "checkpoint"))


@pytest.mark.parametrize("name", CASES)
def test_a_case_fits_the_profile_that_it_is_for(model: InternVL, name: str) -> None:
    case = case_of(model, name)
    graph = model.bundle.manifest.graphs[case.graph]
    profile = profiles_for(case.graph, graph.inputs, model.bundle.manifest, AxisRanges())[case.profile]
    assert case.inputs.keys() == {item.name for item in graph.inputs}
    assert case.expected.keys() == {item.name for item in graph.outputs}
    for tensor, (least, _, most) in profile.items():
        shape = case.inputs[tensor].shape
        assert all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True)), (tensor, shape)


def test_the_decoder_is_fed_as_generation_feeds_it(model: InternVL) -> None:
    fed: list[dict[str, np.ndarray]] = []

    def step(ids: np.ndarray, mask: np.ndarray, positions: np.ndarray, cache: Cache) -> tuple[np.ndarray, Cache]:
        inputs = decoder_inputs(cache, ids, mask)
        np.testing.assert_array_equal(inputs["position_ids"], positions)
        fed.append(inputs)
        outputs = model.run_graph("decoder", inputs)
        return outputs.pop("logits"), outputs

    query = case_of(model, "query").expected
    cache = {name: values for name, values in query.items() if name.startswith("present.")}
    config = GenerationConfig(max_new_tokens=2, min_new_tokens=2)
    generate(CaptionDecoder(cached(step, cache), model.info.num_query_tokens, PROMPT_IDS), config)
    for name, inputs in zip(("prompt", "step"), fed, strict=True):
        case = case_of(model, name)
        tokens = ("attention_mask", "position_ids")
        assert all(np.array_equal(inputs[key], case.inputs[key]) for key in tokens)
        assert {key: value.shape for key, value in inputs.items()} == {k: v.shape for k, v in case.inputs.items()}


@pytest.mark.parametrize(
    ("name", "sm", "target"),
    [
        ("NVIDIA GeForce RTX 4090", 89, "rtx-4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 89, "sm_89"),
        ("NVIDIA L4", 89, "l4"),
        ("NVIDIA L40S", 89, "l40s"),
        ("NVIDIA L40", 89, "sm_89"),
        ("Tesla T4", 75, "t4"),
        ("NVIDIA A10G", 86, "sm_86"),
        ("NVIDIA A100-SXM4-80GB", 80, "a100"),
        ("NVIDIA A100-PCIE-40GB", 80, "sm_80"),
        ("NVIDIA H100 80GB HBM3", 90, "h100"),
        ("NVIDIA H100 PCIe", 90, "sm_90"),
        ("Orin", 87, "sm_87"),
    ],
)
def test_a_device_has_the_sheet_of_its_whole_name(name: str, sm: int, target: str) -> None:
    found = device_target(Device(name=name, sm=sm, memory_bytes=0, driver="13.0"))
    assert (found.name, found.sm) == (target, sm)


def test_a_name_of_another_sm_has_no_sheet() -> None:
    assert device_target(Device(name="NVIDIA L4", sm=90, memory_bytes=0, driver="13.0")).sheet is None


def test_what_a_large_model_lacks_is_said_in_one_sentence() -> None:
    assert lacking_for_large(FreeMemory(host_bytes=16 * GIB, disk_bytes=16 * GIB, device_bytes=16 * GIB)) is None
    assert lacking_for_large(FreeMemory(host_bytes=2 * GIB, disk_bytes=16 * GIB, device_bytes=GIB)) == (
        "InternViT-300M needs 8 GiB of host memory, of which 2.0 GiB are here and 3 GiB of device memory, of which "
        "1.0 GiB are here."
    )


def test_differences_are_shares_of_the_largest_value() -> None:
    expected = {"a": np.array([1.0, -4.0], np.float16), "zeros": np.zeros(2, np.float32)}
    found = {"a": np.array([1.5, -4.0], np.float16), "zeros": np.array([0.0, 0.25], np.float32)}
    assert relative_differences(found, expected) == {"a": 0.125, "zeros": 0.25}


@pytest.mark.parametrize("value", [1.2, np.nan, np.inf])
def test_what_is_too_far_or_no_number_fails_and_is_told(value: float) -> None:
    told: dict[str, object] = {}
    record: Callable[[str, object], None] = told.__setitem__
    near = {"near": np.ones(2, np.float32), "far": np.ones(2, np.float32)}
    with pytest.raises(AssertionError, match=r"further from ONNX Runtime than 0\.01 .*far"):
        require_agreement(near | {"far": np.array([1, value], np.float32)}, near, "fp16", record)
    assert told["worst_output"] == "far"
