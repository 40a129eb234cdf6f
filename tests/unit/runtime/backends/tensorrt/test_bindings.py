"""The fakes and our calls against the true bindings of TensorRT-RTX, as far as they go without a GPU."""

import inspect
import logging
import subprocess
import sys
from enum import Enum

import pytest

from internvl_edge.runtime.backends.layer_times.tensorrt import LayerTimer
from internvl_edge.runtime.backends.tensorrt.plans.failures import refusal
from internvl_edge.runtime.backends.tensorrt.plans.library import Library, load_library
from internvl_edge.runtime.errors import BackendError
from tests.unit.runtime.fake_tensorrt import OFFERED, OFFERED_BY_RTX, RtxEngine, Runtime

OURS = {"world", "plan", "engine", "config", "state", "cache", "kernels", "strategy"}
"""Attributes that the fakes have for themselves."""


@pytest.fixture
def rtx() -> Library:
    """The true library, with our logger and its runtime."""
    pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx", reason="TensorRT-RTX is not installed")
    load_library.cache_clear()
    try:
        return load_library("tensorrt_rtx")
    finally:
        load_library.cache_clear()


@pytest.mark.parametrize("fake", [*OFFERED, *OFFERED_BY_RTX, RtxEngine, Runtime], ids=lambda each: each.__name__)
def test_a_fake_offers_nothing_that_the_true_class_lacks(rtx: Library, fake: type) -> None:
    true = getattr(rtx.trt, {"RtxEngine": "ICudaEngine"}.get(fake.__name__, fake.__name__))
    offered = {name for name in vars(fake) if not name.startswith("_")} - OURS
    assert [name for name in sorted(offered) if not hasattr(true, name)] == []
    if issubclass(fake, Enum):
        assert {member.name for member in fake} <= set(true.__members__)


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("IExecutionContext.set_input_shape", "name: str, shape: tuple"),
        ("IExecutionContext.set_tensor_address", "name: str, memory:"),
        ("IExecutionContext.set_device_memory", "memory: typing.SupportsInt, size: typing.SupportsInt"),
        ("IExecutionContext.set_optimization_profile_async", "profile_index: typing.SupportsInt, stream_handle:"),
        ("IExecutionContext.execute_async_v3", "stream_handle:"),
        ("IExecutionContext.infer_shapes", ") -> list[str]"),
        ("IExecutionContext.is_stream_capturable", "stream: typing.SupportsInt) -> bool"),
        ("ICudaEngine.create_execution_context", "ExecutionContextAllocationStrategy = "),
        ("ICudaEngine.create_execution_context", "IRuntimeConfig = None"),
        ("IRuntimeConfig.set_runtime_cache", "cache: nvinfer1::IRuntimeCache"),
        ("IRuntimeCache.deserialize", "blob: typing_extensions.Buffer) -> bool"),
        ("EngineInspector.get_engine_information", "LayerInformationFormat) -> str"),
        ("IProfiler.report_layer_time", "layer_name: str, ms: typing.SupportsFloat"),
        ("Runtime.deserialize_cuda_engine", "serialized_engine: typing_extensions.Buffer"),
        ("Runtime.deserialize_cuda_engine", "IStreamReaderV2"),
    ],
)
def test_our_calls_have_the_true_signature(rtx: Library, path: str, arguments: str) -> None:
    owner, name = path.split(".")
    assert arguments in (inspect.getdoc(getattr(getattr(rtx.trt, owner), name)) or "")


def test_data_types_have_sizes(rtx: Library) -> None:
    sizes = {name: getattr(rtx.trt.DataType, name).itemsize for name in ("FLOAT", "HALF", "BF16", "INT64")}
    assert sizes == {"FLOAT": 4, "HALF": 2, "BF16": 2, "INT64": 8}


def test_the_true_runtime_refuses_a_foreign_plan_in_our_words(rtx: Library, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    rtx.errors.clear()
    assert rtx.runtime.deserialize_cuda_engine(b"no plan at all" * 100) is None
    error = refusal("vision", "does not load vision.plan", rtx, "build the plans again")
    assert isinstance(error, BackendError)
    assert str(error).startswith(f"graph vision: tensorrt_rtx {rtx.version} does not load vision.plan (IRuntime::")
    assert "\n" not in str(error)
    assert "/_src/" not in str(error)
    assert "magicTag" in caplog.text


def test_the_true_profiler_calls_ours(rtx: Library) -> None:
    clock = LayerTimer(rtx.trt)
    assert isinstance(clock.profiler, rtx.trt.IProfiler)
    clock.profiler.report_layer_time("vision.encoder/mlp", 0.5)
    (layer,) = clock.layers(1, {"Layers": ["vision.encoder/mlp"]})  # a plan without details has names alone
    assert (layer.name, layer.op, layer.times_ms) == ("vision.encoder/mlp", "layer", (0.5,))


def test_importing_the_backend_loads_no_library() -> None:
    code = (
        "import sys, internvl_edge.runtime.backends.tensorrt; "
        "print(*(m for m in ('tensorrt', 'tensorrt_rtx_bindings', 'pycuda') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
