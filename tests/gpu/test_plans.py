"""What only a GPU can show: plans deserialize, run, and agree with ONNX Runtime. `make gpu-check` runs these."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from internvl_edge.export.build import BuildOptions, BuildReport, build_plans
from internvl_edge.export.compile import export_bundle
from internvl_edge.export.engine.estimate import Limits
from internvl_edge.export.engine.flavour import Flavour, load_flavour
from internvl_edge.export.engine.targets import RTX_SMS, find_target
from internvl_edge.export.options import ExportOptions
from internvl_edge.export.samples import synthetic_pixels
from internvl_edge.runtime import InternVL
from internvl_edge.runtime.bundle import Bundle
from internvl_edge.runtime.cuda import Device, find_device
from internvl_edge.runtime.engines import require_engines
from internvl_edge.runtime.errors import EngineError
from tests.tolerances import FP16_RELATIVE, PLAN_8BIT_RELATIVE

pytestmark = pytest.mark.gpu

_RUNS = 50
"""Of which the median latency is told."""


@pytest.fixture(scope="module")
def device() -> Device:
    found = find_device()
    if not isinstance(found, Device):
        pytest.skip(found)
    import torch

    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA: install a CUDA build to hold the buffers")
    return found


@pytest.fixture(scope="module", params=["tensorrt_rtx", "tensorrt"])
def flavour(request: pytest.FixtureRequest, device: Device) -> Flavour:
    if request.param == "tensorrt_rtx" and device.sm not in RTX_SMS:
        pytest.skip(f"sm_{device.sm} is no target of TensorRT-RTX")
    try:
        return load_flavour(request.param)
    except EngineError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def bundles(emoji: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Export the demo in fp16, or with 8-bit linears in it."""

    @cache
    def export(precision: str) -> Path:
        output = tmp_path_factory.mktemp(precision) / "bundle"
        settings: dict[str, Any] = {}
        if precision != "fp16":
            data = str(emoji / "data" / "calibration.jsonl")
            settings = {"precision": precision, "data": data, "calibration_samples": 32, "gate_samples": 0}
        export_bundle(ExportOptions(checkpoint=str(emoji / "checkpoint"), output=output, **settings))
        return output

    return export


def _built(folder: Path, device: Device, flavour: Flavour, limits: Limits) -> BuildReport:
    target = find_target(f"sm_{device.sm}")
    return build_plans(Bundle.open(folder), target, flavour, BuildOptions(limits=limits))


def _run_plan(flavour: Flavour, plan: Path, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
    """Run a plan's first profile on torch's CUDA tensors; return them and the median latency in ms."""
    import torch

    trt = flavour.trt
    engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(plan.read_bytes())
    assert engine is not None, f"{plan} does not deserialize on this device"
    context = engine.create_execution_context()
    held = dict(inputs)
    for name, tensor in held.items():
        context.set_input_shape(name, tuple(tensor.shape))
    dtypes = {trt.float32: torch.float32, trt.float16: torch.float16, trt.int64: torch.int64}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        if name not in held:
            shape = tuple(context.get_tensor_shape(name))
            held[name] = torch.empty(shape, dtype=dtypes[engine.get_tensor_dtype(name)], device="cuda")
        context.set_tensor_address(name, held[name].data_ptr())
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    times = []
    for _ in range(_RUNS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record(stream)
        assert context.execute_async_v3(stream.cuda_stream)
        end.record(stream)
        stream.synchronize()
        times.append(start.elapsed_time(end))
    return {name: tensor for name, tensor in held.items() if name not in inputs}, float(np.median(times))


def _inputs(model: InternVL, graph: str) -> dict[str, np.ndarray]:
    pixels = {"pixel_values": synthetic_pixels(70, 2)}
    ids = np.array([[1, 50, 60, 2, 0], [1, 70, 2, 0, 0]], np.int64)
    if graph == "vision":
        return pixels
    if graph == "text":
        return {"input_ids": ids}
    states = {"vision_states": model.run_graph("vision", pixels)["vision_states"]}
    return states if graph == "query" else {**states, "input_ids": ids}


@pytest.mark.parametrize("limits", [Limits(), Limits(device_bytes=1)], ids=["whole", "parts"])
@pytest.mark.parametrize("precision", ["fp16", "int8", "fp8"])
@pytest.mark.parametrize("graph", ["vision", "query", "text", "itm"])
def test_a_plan_agrees_with_onnx_runtime(
    device: Device,
    flavour: Flavour,
    bundles: Callable[[str], Path],
    graph: str,
    precision: str,
    limits: Limits,
    record_property: Callable[[str, object], None],
) -> None:
    import torch

    if precision == "fp8" and not find_target(f"sm_{device.sm}").fp8:
        pytest.skip(f"sm_{device.sm} has no FP8")
    folder = bundles(precision)
    report = _built(folder, device, flavour, limits)
    record = require_engines(
        Bundle.open(folder), report.folder, flavour=flavour.name, version=flavour.version, sm=device.sm
    )
    model = InternVL.open(folder)
    inputs = _inputs(model, graph)
    expected = model.run_graph(graph, inputs)
    values = {name: torch.from_numpy(value).cuda() for name, value in inputs.items()}
    latency = 0.0
    for plan in record.graphs[graph].plans:
        found, ms = _run_plan(flavour, report.folder / plan.file, {name: values[name] for name in plan.inputs})
        values |= found
        latency += ms
    record_property("median_ms", latency)
    relative = FP16_RELATIVE if precision == "fp16" else PLAN_8BIT_RELATIVE
    for name, value in expected.items():
        bound = relative * float(np.abs(value).max())
        actual = values[name].float().cpu().numpy()
        record_property(f"difference of {name}", float(np.abs(actual - value.astype(np.float32)).max()))
        np.testing.assert_allclose(actual, value.astype(np.float32), atol=bound, rtol=0)
