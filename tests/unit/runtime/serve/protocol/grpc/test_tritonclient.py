"""The unmodified `tritonclient` over gRPC, in one process with the server."""

import queue
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from internvl_edge.runtime.serve.protocol.options import ProtocolOptions
from internvl_edge.runtime.serve.protocol.service import Service
from tests.tolerances import HANG_S
from tests.unit.runtime.serve.fake_engine import WORDS, FakeEngine, served
from tests.unit.runtime.serve.protocol.http.test_tritonclient import EVERY

triton = pytest.importorskip("tritonclient.grpc")


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(scope="module")
def client(engine: FakeEngine) -> "Iterator[triton.InferenceServerClient]":
    service = Service(engine, options=ProtocolOptions(body_bytes=1 << 20))
    with served(service) as places, triton.InferenceServerClient(places.grpc_url) as client:
        yield client


def _input(name: str, array: np.ndarray, datatype: str) -> "triton.InferInput":
    tensor = triton.InferInput(name, array.shape, datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def _sum_inputs(rows: int = 2, width: int = 4) -> "list[triton.InferInput]":
    ones = np.ones((rows, width), np.float32)
    return [_input("a", ones, "FP32"), _input("b", ones, "FP32")]


def _picture() -> "triton.InferInput":
    return _input("image", np.array([b"png"], np.object_), "BYTES")


def _answered(client: "triton.InferenceServerClient") -> int:
    return int(client.get_inference_statistics("sum").model_stats[0].inference_stats.success.count)


def test_it_tells_of_itself(client: "triton.InferenceServerClient") -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("sum")
    assert client.get_server_metadata().name == "internvl-edge"
    metadata = client.get_model_metadata("sum")
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.outputs] == [("total", "FP32", [-1, 4])]
    config = client.get_model_config("sum").config
    assert config.max_batch_size == 16
    assert config.HasField("dynamic_batching")
    assert not client.get_model_config("caption").config.HasField("dynamic_batching")
    assert "sum" in [model.name for model in client.get_model_repository_index().models]
    before = _answered(client)
    client.infer("sum", _sum_inputs())
    assert _answered(client) == before + 1


@pytest.mark.parametrize("datatype", EVERY)
def test_every_type_comes_back(client: "triton.InferenceServerClient", datatype: str) -> None:
    result = client.infer("echo", [_input(f"{datatype.lower()}_in", EVERY[datatype], datatype)])
    np.testing.assert_array_equal(result.as_numpy(f"{datatype.lower()}_out"), EVERY[datatype])


@pytest.mark.parametrize("datatype", [datatype for datatype in EVERY if datatype not in ("FP16", "BF16")])
def test_typed_contents_are_read(client: "triton.InferenceServerClient", datatype: str) -> None:
    fields = {"BOOL": "bool", "UINT8": "uint", "INT8": "int", "INT32": "int", "INT64": "int64"}
    request = triton.service_pb2.ModelInferRequest(model_name="echo")
    tensor = request.inputs.add(name=f"{datatype.lower()}_in", datatype=datatype, shape=[2])
    getattr(tensor.contents, f"{fields.get(datatype, datatype.lower())}_contents").extend(EVERY[datatype].tolist())
    response = client._client_stub.ModelInfer(request)
    result = triton.InferResult(response)
    np.testing.assert_array_equal(result.as_numpy(f"{datatype.lower()}_out"), EVERY[datatype])


def _text_request(**parameters: object) -> Any:
    """Return what KServe's SDK sends for a text: raw contents whose size the input repeats."""
    raw = b"\x05\0\0\0a cat"
    request = triton.service_pb2.ModelInferRequest(model_name="encode_text", raw_input_contents=[raw])
    tensor = request.inputs.add(name="text", datatype="BYTES", shape=[1])
    for name, value in parameters.items():
        setattr(tensor.parameters[name], "int64_param" if isinstance(value, int) else "string_param", value)
    return request


def test_what_kserves_sdk_sends_is_answered(client: "triton.InferenceServerClient") -> None:
    response = client._client_stub.ModelInfer(_text_request(binary_data_size=9))
    assert triton.InferResult(response).as_numpy("embedding")[0, 0] == 5


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"binary_data_size": 8}, "binary_data_size is 8, the bytes are 9"),
        ({"binary_data_size": "9"}, "binary_data_size is '9', the bytes are 9"),
        ({"shared_memory_region": "mine"}, "shared memory is not offered"),
        ({"content_type": "pd"}, "parameter 'content_type' is not known"),
    ],
)
def test_other_parameters_of_an_input_are_refused(
    client: "triton.InferenceServerClient", parameters: dict[str, object], words: str
) -> None:
    with pytest.raises(Exception, match=words):
        client._client_stub.ModelInfer(_text_request(**parameters))


def test_a_size_without_raw_bytes_is_refused(client: "triton.InferenceServerClient") -> None:
    request = triton.service_pb2.ModelInferRequest(model_name="encode_text")
    tensor = request.inputs.add(name="text", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(b"a cat")
    tensor.parameters["binary_data_size"].int64_param = 9
    with pytest.raises(Exception, match="the bytes are none in raw_input_contents"):
        client._client_stub.ModelInfer(request)


def test_an_output_is_asked_for_once(client: "triton.InferenceServerClient") -> None:
    wanted = [triton.InferRequestedOutput("total")] * 2
    with pytest.raises(triton.InferenceServerException, match="output 'total': is asked for twice"):
        client.infer("sum", _sum_inputs(), outputs=wanted)


def test_outputs_id_and_parameters(client: "triton.InferenceServerClient", engine: FakeEngine) -> None:
    result = client.infer(
        "echo",
        [_input("fp32_in", EVERY["FP32"], "FP32"), _input("bool_in", EVERY["BOOL"], "BOOL")],
        outputs=[triton.InferRequestedOutput("bool_out")],
        request_id="mine",
        parameters={"scale": 2},
        client_timeout=HANG_S,
    )
    assert result.get_response().id == "mine"
    assert result.as_numpy("fp32_out") is None
    assert engine.seen[-1].parameters == {"scale": 2}
    assert engine.seen[-1].client == "127.0.0.1"


def test_a_large_batch_without_a_deadline_has_one_for_each_of_its_batches(
    client: "triton.InferenceServerClient", engine: FakeEngine
) -> None:
    before = time.monotonic()
    client.infer("sum", _sum_inputs(rows=64))
    deadline = engine.seen[-1].deadline
    assert deadline is not None
    assert before + 2 <= deadline <= time.monotonic() + 2
    client.infer("sum", _sum_inputs(rows=64), timeout=1_000_000)
    deadline = engine.seen[-1].deadline
    assert deadline is not None
    assert deadline <= time.monotonic() + 1  # what a client asks for holds as it is


@pytest.mark.parametrize(
    ("model", "inputs", "status", "words"),
    [
        ("other", _sum_inputs, "NOT_FOUND", "not served"),
        ("sum", lambda: _sum_inputs()[:1], "INVALID_ARGUMENT", "b is missing"),
        ("sum", lambda: _sum_inputs(width=3), "INVALID_ARGUMENT", "shape"),
        ("sum", lambda: [_input("a", np.ones((1, 4)), "FP64"), _sum_inputs(1)[1]], "INVALID_ARGUMENT", "FP32"),
        ("sum", lambda: _sum_inputs(rows=100_000), "RESOURCE_EXHAUSTED", "larger than max"),
        ("full", _sum_inputs, "RESOURCE_EXHAUSTED", "the queue is full"),
        ("broken", _sum_inputs, "INTERNAL", "the server failed"),
    ],
)
def test_refusals_are_one_sentence(
    client: "triton.InferenceServerClient", model: str, inputs: Any, status: str, words: str
) -> None:
    with pytest.raises(triton.InferenceServerException, match=words) as caught:
        client.infer(model, inputs())
    assert caught.value.status() == f"StatusCode.{status}"
    assert "secret" not in caught.value.message()


def test_a_client_that_gives_up_cancels_the_work(client: "triton.InferenceServerClient", engine: FakeEngine) -> None:
    engine.cancelled.clear()
    with pytest.raises(triton.InferenceServerException, match="Deadline Exceeded"):
        client.infer("slow", _sum_inputs(), client_timeout=1)  # enough for the engine to begin
    assert engine.cancelled.wait(HANG_S)


def test_captions_stream(client: "triton.InferenceServerClient") -> None:
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer("caption", [_picture()], request_id="mine")
    got = [answers.get(timeout=HANG_S) for _ in WORDS]
    assert all(error is None for _, error in got)
    assert [result.as_numpy("text")[0].decode() for result, _ in got] == list(WORDS)
    finals = [result.get_response().parameters["triton_final_response"].bool_param for result, _ in got]
    assert finals == [False, False, True]
    assert {result.get_response().id for result, _ in got} == {"mine"}
    client.async_stream_infer("sum", _sum_inputs())
    assert answers.get(timeout=HANG_S)[0].as_numpy("total").sum() == 16
    client.stop_stream()


def test_a_refusal_in_a_stream_leaves_the_stream_open(client: "triton.InferenceServerClient") -> None:
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer("caption", [_picture()], parameters={"max_new_tokens": 1})
    assert answers.get(timeout=HANG_S)[1] is None
    assert "no more of it" in str(answers.get(timeout=HANG_S)[1])
    client.async_stream_infer("other", [_picture()])
    assert "not served" in str(answers.get(timeout=HANG_S)[1])
    client.async_stream_infer("caption", [_picture()])
    assert answers.get(timeout=HANG_S)[1] is None
    client.stop_stream()


def test_a_cancelled_stream_stops_the_work(client: "triton.InferenceServerClient", engine: FakeEngine) -> None:
    engine.streams_closed.clear()
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer("caption", [_picture()])
    answers.get(timeout=HANG_S)
    client.stop_stream(cancel_requests=True)
    assert engine.streams_closed.wait(HANG_S)
