"""Tensors hold the type that they declare, for every graph, type and interface."""

import asyncio
import json
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from internvl_edge.runtime.bundle.declared_types import bfloat16_from_bits, rounded_to_bfloat16
from internvl_edge.runtime.errors import BundleError
from internvl_edge.runtime.model import InternVL
from internvl_edge.runtime.package.options import RepositoryOptions
from internvl_edge.runtime.package.python_backend import TritonPythonModel
from internvl_edge.runtime.package.repository import write_repository
from internvl_edge.runtime.serve.options import ServeOptions
from internvl_edge.runtime.serve.pool import WorkerEngine
from internvl_edge.runtime.serve.protocol.service import Service
from internvl_edge.runtime.serve.server import Listeners, ServerOptions
from internvl_edge.runtime.serve.signature import DATATYPES
from tests.tolerances import HANG_S
from tests.unit.runtime.serve.fake_engine import Places
from tests.unit.runtime.serve.onnx_bundle import NARROW, write_typed_bundle

http = pytest.importorskip("tritonclient.http")
grpc = pytest.importorskip("tritonclient.grpc")
ml_dtypes = pytest.importorskip("ml_dtypes")
CALLED = {"float16": "FP16", "bfloat16": "BF16", "float32": "FP32"}
BYTES = {"FP16": 2, "BF16": 2, "FP32": 4}
VALUES = np.array([[0.1, -7.3, 1000.7, 3e-5], [0, 1, -1, 65000]], np.float32)


@pytest.fixture(scope="module", params=CALLED)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_typed_bundle(tmp_path_factory.mktemp(request.param) / "bundle", request.param)


@pytest.fixture(scope="module")
def called(bundle: Path) -> str:
    manifest = json.loads((bundle / "manifest.json").read_text())
    return CALLED[manifest["graphs"]["vision"]["outputs"][0]["dtype"]]


@pytest.fixture(scope="module")
def places(bundle: Path) -> Iterator[Places]:
    """A server with a real worker."""
    found: list[Places] = []
    opened, stop = threading.Event(), threading.Event()

    async def run() -> None:
        engine = WorkerEngine(bundle, ServeOptions(threads=1, backend="onnxruntime"))
        await engine.start()
        async with Listeners(Service(engine), ServerOptions(http=0, grpc=0)) as listeners:
            found.append(Places(*listeners.ports))
            opened.set()
            await asyncio.to_thread(stop.wait)
        await engine.close()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert opened.wait(HANG_S)
    yield found[0]
    stop.set()
    thread.join(HANG_S)


def given(called: str) -> np.ndarray:
    """Return the values as the type has them, in fp32."""
    if called == "BF16":
        return rounded_to_bfloat16(VALUES)
    return VALUES.astype(DATATYPES[called]).astype(np.float32)


def wanted(called: str) -> dict[str, np.ndarray]:
    third = given(called) / np.float32(3)
    states = rounded_to_bfloat16(third) if called == "BF16" else third.astype(DATATYPES[called])
    return {"states": states, "third": third}


def require_wanted(outputs: dict[str, np.ndarray], called: str) -> None:
    for name, right in wanted(called).items():
        np.testing.assert_array_equal(outputs[name], right, err_msg=name)


@pytest.mark.parametrize("graph", NARROW)
def test_arrays_of_a_graph_have_the_declared_type(bundle: Path, called: str, graph: str) -> None:
    with InternVL.open(bundle, "onnxruntime") as model:
        outputs = model.run_graph(graph, {"x": VALUES})  # cast on the way in, as the documentation says
        assert outputs["states"].dtype == (np.float16 if called == "FP16" else np.float32)
        require_wanted(outputs, called)
        assert list(model.run_graph(graph, {"x": VALUES}, ["third"])) == ["third"]


@pytest.mark.parametrize("graph", NARROW)
@pytest.mark.parametrize("module", [http, grpc], ids=["http", "grpc"])
def test_binary_tensors_have_the_bytes_of_their_name(places: Places, called: str, graph: str, module: Any) -> None:
    with module.InferenceServerClient(places.http_url if module is http else places.grpc_url) as client:
        metadata = client.get_model_metadata(graph, **({} if module is http else {"as_json": True}))
        assert [tensor["datatype"] for tensor in metadata["outputs"]] == [called, "FP32"]
        tensor = module.InferInput("x", list(VALUES.shape), called)
        tensor.set_data_from_numpy(VALUES.astype(ml_dtypes.bfloat16 if called == "BF16" else DATATYPES[called]))
        result = client.infer(graph, [tensor])
        require_wanted({name: np.array(result.as_numpy(name), np.float32) for name in ("states", "third")}, called)
        answer = result.get_response()
        if module is http:
            sizes = [output["parameters"]["binary_data_size"] for output in answer["outputs"]]
        else:
            sizes = [len(raw) for raw in answer.raw_output_contents]
        assert sizes == [VALUES.size * BYTES[called], VALUES.size * 4]


@pytest.mark.parametrize("graph", NARROW)
def test_json_has_the_numbers_of_the_type(places: Places, called: str, graph: str) -> None:
    tensor = {"name": "x", "datatype": called, "shape": list(VALUES.shape), "data": VALUES.tolist()}
    body = json.dumps({"inputs": [tensor]}).encode()
    with urllib.request.urlopen(f"http://{places.http_url}/v2/models/{graph}/infer", body, 30) as answer:
        outputs = {output["name"]: output for output in json.load(answer)["outputs"]}
    assert [output["datatype"] for output in outputs.values()] == [called, "FP32"]
    require_wanted({n: np.array(o["data"], np.float32).reshape(o["shape"]) for n, o in outputs.items()}, called)


def test_typed_contents_are_read_where_the_protocol_has_them(places: Places, called: str) -> None:
    request = grpc.service_pb2.ModelInferRequest(model_name="vision")
    request.inputs.add(name="x", datatype=called, shape=[2, 4]).contents.fp32_contents.extend(given(called).ravel())
    with grpc.InferenceServerClient(places.grpc_url) as client:
        if called != "FP32":
            with pytest.raises(Exception, match=f"{called} is sent in raw_input_contents"):
                client._client_stub.ModelInfer(request)
            return
        result = grpc.InferResult(client._client_stub.ModelInfer(request))
    require_wanted({name: result.as_numpy(name) for name in ("states", "third")}, called)


def test_another_type_than_declared_is_refused(places: Places, called: str) -> None:
    other = "FP64" if called == "FP32" else "FP32"
    with http.InferenceServerClient(places.http_url) as client:
        tensor = http.InferInput("x", list(VALUES.shape), other)
        tensor.set_data_from_numpy(VALUES.astype(DATATYPES[other]))
        with pytest.raises(http.InferenceServerException, match=f"x is {other} instead of {called}"):
            client.infer("vision", [tensor])


class _Tensor:
    def __init__(self, name: str, values: np.ndarray) -> None:
        self._name, self._values = name, values

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._values


@pytest.mark.parametrize("graph", NARROW)
def test_tritons_python_backend_gives_what_its_configuration_says(
    bundle: Path, called: str, graph: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = RepositoryOptions(platform="runtime", backend="onnxruntime")
    if called == "BF16":
        with pytest.raises(BundleError, match=r"no bfloat16 .*vision x, vision states.*--dtype fp16"):
            write_repository(bundle, tmp_path / "repository", options)
        return
    write_repository(bundle, tmp_path / "repository", options)
    folder = tmp_path / "repository" / graph
    config = text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    types = {tensor.name: model_config_pb2.DataType.Name(tensor.data_type) for tensor in config.output}
    assert types == {"states": f"TYPE_{called}", "third": "TYPE_FP32"}
    response = SimpleNamespace(
        Tensor=_Tensor, InferenceResponse=lambda output_tensors: output_tensors, TritonError=SimpleNamespace
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", response)
    told = {parameter: {"string_value": value.string_value} for parameter, value in config.parameters.items()}
    model = TritonPythonModel()
    model.initialize(
        {
            "model_config": json.dumps({"parameters": told, "max_batch_size": config.max_batch_size}),
            "model_repository": str(folder),
            "model_version": "1",
        }
    )
    request = SimpleNamespace(
        inputs=lambda: [_Tensor("x", VALUES.astype(DATATYPES[called]))],
        requested_output_names=lambda: [],
        parameters=lambda: "",
    )
    (outputs,) = model.execute([request])
    model.finalize()
    arrays = {tensor.name(): tensor.as_numpy() for tensor in outputs}
    assert {name: f"TYPE_{_name(values.dtype)}" for name, values in arrays.items()} == types
    require_wanted(arrays, called)


def _name(dtype: "np.dtype[Any]") -> str:
    return next(name for name, known in DATATYPES.items() if known == dtype)


def test_bits_stand_for_their_numbers() -> None:
    assert bfloat16_from_bits(np.array([0x3F80, 0xC000], np.uint16)).tolist() == [1.0, -2.0]
