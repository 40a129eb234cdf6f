"""The unmodified `tritonclient` over HTTP."""

from collections.abc import Iterator

import numpy as np
import pytest

from internvl_edge.runtime.serve.protocol.options import ProtocolOptions
from internvl_edge.runtime.serve.protocol.service import Service
from tests.unit.runtime.serve.fake_engine import FakeEngine, served

triton = pytest.importorskip("tritonclient.http")
ml_dtypes = pytest.importorskip("ml_dtypes")
EVERY = {
    "BOOL": np.array([True, False]),
    "UINT8": np.array([0, 255], np.uint8),
    "INT8": np.array([-128, 127], np.int8),
    "INT32": np.array([-(2**31), 2**31 - 1], np.int32),
    "INT64": np.array([-(2**63), 2**63 - 1], np.int64),
    "FP16": np.array([0.5, -65504], np.float16),
    "BF16": np.array([0.5, -3.0e38], ml_dtypes.bfloat16),
    "FP32": np.array([0.1, -3.4e38], np.float32),
    "FP64": np.array([0.1, 1.7e308], np.float64),
    "BYTES": np.array(["wörd".encode(), b"x"], np.object_),
}


@pytest.fixture(scope="module")
def client(engine: FakeEngine) -> "Iterator[triton.InferenceServerClient]":
    service = Service(engine, options=ProtocolOptions(body_bytes=1 << 20))
    with served(service) as places, triton.InferenceServerClient(places.http_url) as client:
        yield client


def _input(name: str, array: np.ndarray, datatype: str, binary: bool = True) -> "triton.InferInput":
    tensor = triton.InferInput(name, array.shape, datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def _sum_inputs(rows: int = 2, width: int = 4) -> "list[triton.InferInput]":
    ones = np.ones((rows, width), np.float32)
    return [_input("a", ones, "FP32"), _input("b", ones, "FP32")]


def test_it_tells_of_itself(client: "triton.InferenceServerClient") -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("sum")
    assert client.is_model_ready("sum", "1")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["name"] == "internvl-edge"
    metadata = client.get_model_metadata("sum")
    assert metadata["inputs"][0] == {"name": "a", "datatype": "FP32", "shape": [-1, 4]}
    config = client.get_model_config("sum")
    assert config["max_batch_size"] == 16
    assert config["input"][0] == {"name": "a", "data_type": "TYPE_FP32", "dims": [4], "optional": False}
    assert {"name": "sum", "version": "1", "state": "READY", "reason": ""} in client.get_model_repository_index()


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("datatype", EVERY)
def test_every_type_comes_back(
    client: "triton.InferenceServerClient", datatype: str, binary_in: bool, binary_out: bool
) -> None:
    if datatype in ("FP16", "BF16") and not (binary_in and binary_out):
        pytest.skip("tritonclient sends FP16 and BF16 as binary data only")
    name = f"{datatype.lower()}_out"
    tensor = _input(f"{datatype.lower()}_in", EVERY[datatype], datatype, binary_in)
    result = client.infer("echo", [tensor], outputs=[triton.InferRequestedOutput(name, binary_data=binary_out)])
    got = result.as_numpy(name)
    if datatype == "BYTES" and not binary_out:
        got = np.vectorize(str.encode, otypes=[object])(got)
    np.testing.assert_array_equal(got, EVERY[datatype])


def test_all_outputs_are_binary_where_none_is_named(client: "triton.InferenceServerClient") -> None:
    result = client.infer("sum", _sum_inputs(), request_id="mine", parameters={})
    assert result.get_response()["id"] == "mine"
    np.testing.assert_array_equal(result.as_numpy("total"), np.full((2, 4), 2, np.float32))


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_bodies_are_read(client: "triton.InferenceServerClient", algorithm: str) -> None:
    result = client.infer(
        "sum", _sum_inputs(), request_compression_algorithm=algorithm, response_compression_algorithm=algorithm
    )
    assert result.as_numpy("total").sum() == 16


def test_parameters_and_timeout_reach_the_engine(client: "triton.InferenceServerClient", engine: FakeEngine) -> None:
    client.infer("echo", [_input("fp32_in", EVERY["FP32"], "FP32")], parameters={"scale": 2}, timeout=2_000_000)
    request = engine.seen[-1]
    assert request.parameters == {"scale": 2}
    assert request.deadline is not None
    assert request.trace.startswith("00-")


def test_statistics_count(client: "triton.InferenceServerClient") -> None:
    before = client.get_inference_statistics("sum")["model_stats"][0]["inference_stats"]["success"]["count"]
    client.infer("sum", _sum_inputs())
    after = client.get_inference_statistics("sum")["model_stats"][0]
    assert after["inference_stats"]["success"]["count"] == before + 1
    assert len(client.get_inference_statistics()["model_stats"]) > 1


def test_async_requests_are_answered(client: "triton.InferenceServerClient") -> None:
    answers = [client.async_infer("sum", _sum_inputs()) for _ in range(8)]
    assert all(answer.get_result().as_numpy("total").sum() == 16 for answer in answers)


@pytest.mark.parametrize(
    ("model", "inputs", "status", "words"),
    [
        ("other", _sum_inputs, "404", "not served"),
        ("sum", lambda: _sum_inputs()[:1], "400", "b is missing"),
        ("sum", lambda: _sum_inputs(width=3), "400", "shape"),
        ("sum", lambda: [_input("a", np.ones((1, 4)), "FP64"), _sum_inputs(1)[1]], "400", "FP32"),
        ("sum", lambda: [*_sum_inputs(), _input("c", np.ones((1, 4)), "FP64")], "400", "c"),
        ("sum", lambda: _sum_inputs(rows=100_000), "413", "larger than 1048576 bytes"),
        ("full", _sum_inputs, "429", "the queue is full"),
        ("broken", _sum_inputs, "500", "the server failed"),
    ],
)
def test_refusals_are_one_sentence(
    client: "triton.InferenceServerClient", model: str, inputs: "object", status: str, words: str
) -> None:
    with pytest.raises(triton.InferenceServerException) as caught:
        client.infer(model, inputs())  # type: ignore[operator]
    assert caught.value.status() == status
    assert words in caught.value.message()
    assert "\n" not in caught.value.message()
    assert "secret" not in caught.value.message()


def test_unknown_versions_parameters_and_outputs_are_refused(client: "triton.InferenceServerClient") -> None:
    for arguments in (
        {"model_version": "7"},
        {"parameters": {"temperature": 1}},
        {"outputs": [triton.InferRequestedOutput("other")]},
        {"outputs": [triton.InferRequestedOutput("total", class_count=3)]},
    ):
        with pytest.raises(triton.InferenceServerException) as caught:
            client.infer("sum", _sum_inputs(), **arguments)
        assert caught.value.status() in ("400", "404")


def test_shared_memory_is_refused(client: "triton.InferenceServerClient") -> None:
    with pytest.raises(triton.InferenceServerException, match="not offered") as caught:
        client.register_system_shared_memory("mine", "/mine", 16)
    assert caught.value.status() == "400"
