"""What only a GPU can show: plans deserialize, run, and agree with ONNX Runtime. `make gpu-check` runs these."""

import ctypes
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from internvl_edge.export.compile import export_bundle
from internvl_edge.export.options import ExportOptions
from internvl_edge.export.samples import synthetic_pixels
from internvl_edge.runtime import InternVL
from tests.tolerances import FP16_RELATIVE

pytestmark = pytest.mark.gpu

_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""


def _compute_capability() -> int:
    """Return the SM of device 0, or skip naming what is lacking."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        pytest.skip("no NVIDIA driver: libcuda.so.1 is not there")
    device = ctypes.c_int()
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGet(ctypes.byref(device), 0) != 0:
        pytest.skip("no CUDA device: the driver finds none")
    parts = []
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        parts.append(value.value)
    return 10 * parts[0] + parts[1]


@pytest.fixture(scope="module")
def sm() -> int:
    found = _compute_capability()
    if importlib.util.find_spec("tensorrt_rtx_bindings") is None:
        pytest.skip("TensorRT-RTX is not installed: pip install 'internvl-edge[rtx]'")
    import torch

    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA: install a CUDA build to hold the buffers")
    if found not in (75, 80, 86, 89, 120, 121):
        pytest.skip(f"sm_{found} is no target of TensorRT-RTX")
    return found


@pytest.fixture(scope="module")
def bundle(sm: int, emoji: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("gpu") / "bundle"
    export_bundle(ExportOptions(checkpoint=str(emoji / "checkpoint"), output=output, target=f"sm_{sm}"))
    return output


def _run_plan(plan: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run a plan's first profile on torch's CUDA tensors: shapes first, then addresses, then synchronise."""
    import onnxruntime_ep_nv_tensorrt_rtx  # noqa: F401
    import tensorrt_rtx_bindings as trt
    import torch

    engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(plan.read_bytes())
    assert engine is not None, f"{plan} does not deserialize on this device"
    context = engine.create_execution_context()
    held = {name: torch.from_numpy(values).cuda() for name, values in inputs.items()}
    for name, tensor in held.items():
        context.set_input_shape(name, tuple(tensor.shape))
    dtypes: dict[Any, torch.dtype] = {trt.float32: torch.float32, trt.float16: torch.float16, trt.int64: torch.int64}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        if name not in held:
            shape = tuple(context.get_tensor_shape(name))
            held[name] = torch.empty(shape, dtype=dtypes[engine.get_tensor_dtype(name)], device="cuda")
        context.set_tensor_address(name, held[name].data_ptr())
    stream = torch.cuda.current_stream()
    assert context.execute_async_v3(stream.cuda_stream)
    stream.synchronize()
    return {name: tensor.cpu().numpy() for name, tensor in held.items() if name not in inputs}


@pytest.mark.parametrize("graph", ["vision", "query", "text", "itm"])
def test_a_plan_agrees_with_onnx_runtime(sm: int, bundle: Path, graph: str) -> None:
    model = InternVL.open(bundle)
    states = model.run_graph("vision", {"pixel_values": synthetic_pixels(70, 2)})["vision_states"]
    ids = np.array([[1, 50, 60, 2, 0], [1, 70, 2, 0, 0]], np.int64)
    inputs = {
        "vision": {"pixel_values": synthetic_pixels(70, 2)},
        "query": {"vision_states": states},
        "text": {"input_ids": ids},
        "itm": {"vision_states": states, "input_ids": ids},
    }[graph]
    expected = model.run_graph(graph, inputs)
    found = _run_plan(bundle / "engines" / f"sm_{sm}" / f"{graph}.plan", inputs)
    assert sorted(found) == sorted(expected)
    for name, values in expected.items():
        bound = FP16_RELATIVE * float(np.abs(values).max())
        np.testing.assert_allclose(found[name].astype(np.float32), values.astype(np.float32), atol=bound, rtol=0)
