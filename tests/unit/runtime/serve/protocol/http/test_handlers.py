"""The protocol over HTTP as curl and other clients speak it: every path, refusals, keys, traces and metrics."""

import gzip
import http.client
import json
from typing import Any

import pytest

from internvl_edge.runtime.serve.protocol.credentials import Credentials
from internvl_edge.runtime.serve.protocol.service import Service
from tests.tolerances import HANG_S
from tests.unit.runtime.serve.fake_engine import WORDS, FakeEngine, Places, served
from tests.unit.runtime.serve.protocol.http.asking import PNG, ask, refused, rows


def _events(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(event.removeprefix(b"data: ")) for event in body.split(b"\n\n") if event]


def test_infer_in_json(places: Places) -> None:
    status, _, body = ask(places, "POST", "/v2/models/sum/versions/1/infer", {**rows(), "id": "mine"})
    assert status == 200
    output = {"name": "total", "datatype": "FP32", "shape": [1, 4], "data": [2.0, 4.0, 6.0, 8.0]}
    assert json.loads(body) == {"model_name": "sum", "model_version": "1", "outputs": [output], "id": "mine"}
    assert ask(places, "POST", "/v2/models/sum/infer", rows(data=[[1, 2, 3, 4]]))[0] == 200


def test_pictures_in_json_are_base64_and_alone_are_the_body(places: Places, engine: FakeEngine) -> None:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [PNG]}
    body = {"inputs": [{**tensor, "parameters": {"content_type": "base64"}}]}
    assert ask(places, "POST", "/v2/models/encode_image/infer", body)[0] == 200
    assert engine.seen[-1].inputs["image"].tolist() == [b"png"]
    raw = ask(places, "POST", "/v2/models/encode_image/infer", b"png", {"Inference-Header-Content-Length": "0"})
    assert raw[0] == 200
    assert engine.seen[-1].inputs["image"].tolist() == [b"png"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "the body is no JSON"),
        ("{", "the body is no JSON"),
        ("[]", "a JSON object"),
        (b"\xff", "not UTF-8"),
        ("[" * 100_000, "nested too deeply"),
        ('{"inputs": 1}', "a list of objects"),
        ('{"inputs": [1]}', "a list of objects"),
        ('{"inputs": [{}]}', "each has a name"),
        ('{"id": 1}', "id: is a string"),
        ('{"id": "\\ud800"}', "id: is a string"),
        ('{"parameters": 1}', "parameters: is an object"),
        ('{"parameters": {"timeout": -1}}', "microseconds"),
        ('{"parameters": {"temperature": 1}}', "no parameter 'temperature'"),
        ('{"parameters": {"binary_data_output": 1}}', "true or false"),
        ('{"outputs": [{}]}', "each has a name"),
        (rows(data=[1, 2, 3]), "4 elements, got 3"),
        (rows(data="1234"), "data is a list"),
        (rows(data=[1, 2, 3, "4"]), "are numbers"),
        (rows(data=[[1, 2], 3, 4]), "elements"),
        (rows(data=[1, 2, 3, None]), "are numbers"),
        (rows(data=[1, 2, 3, 1e300]), "beyond FP32"),
        (rows(data=[1, 2, 3, 10**400]), "beyond FP32"),
        (json.dumps(rows(data=[1, 2, 3, float("nan")])), "NaN is no number"),
        (rows(shape=[1, -4]), "no list of sizes"),
        (rows(shape=[1, 2**40]), "no list of sizes"),
        (rows(shape="14"), "no list of sizes"),
        (rows(datatype="FP31"), "is none of"),
        (rows(parameters={"binary_data_size": 16}), "does not fit"),
        (rows(parameters={"shared_memory_region": "mine"}), "takes binary_data_size"),
        ({"inputs": [rows()["inputs"][0]] * 2}, "given twice"),
        ('{"inputs": [], "inputs": []}', "the JSON has 'inputs' twice in one object"),
        ('{"parameters": {"timeout": 1, "timeout": 2}}', "'timeout' twice"),
        ('{"inputs": [{"name": "a", "name": "b"}]}', "'name' twice"),
        ({**rows(), "outputs": [{"name": "total"}] * 2}, "output 'total': is asked for twice"),
        ({**rows(), "outputs": [{"name": "other"}]}, "no output"),
        ({**rows(), "outputs": [{"name": "total", "parameters": {"classification": 2}}]}, "classification"),
    ],
)
def test_what_is_no_request_is_refused(places: Places, body: Any, words: str) -> None:
    status, sentence = refused(places, "/v2/models/sum/infer", body)
    assert status == 400
    assert words in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("datatype", "value", "words"),
    [
        ("UINT8", 256, "beyond UINT8"),
        ("INT64", 2**63, "beyond INT64"),
        ("INT32", 1.5, "whole numbers"),
        ("INT32", True, "whole numbers"),
        ("BOOL", 1, "true or false"),
        ("BYTES", 1, "strings"),
        ("BYTES", "\ud800", "surrogate"),
    ],
)
def test_values_keep_to_their_type(places: Places, datatype: str, value: Any, words: str) -> None:
    tensor = {"name": f"{datatype.lower()}_in", "datatype": datatype, "shape": [1], "data": [value]}
    status, sentence = refused(places, "/v2/models/echo/infer", {"inputs": [tensor]})
    assert (status, words in sentence) == (400, True), sentence


@pytest.mark.parametrize(
    ("length", "binary", "words"),
    [
        ("x", b"", "is a number of bytes"),
        ("99999", b"", "is a number of bytes"),
        (None, b"", "4 elements take more"),
        (None, b"\x01\x00\x00\x00", "4 elements take more"),
        (None, b"\xff\xff\xff\xff" * 4, "cut off"),
        (None, b"\x00\x00\x00\x00" * 5, "got 5"),
    ],
)
def test_broken_binary_data_is_refused(places: Places, length: "str | None", binary: bytes, words: str) -> None:
    parameters = {"binary_data_size": len(binary)}
    tensor = {"name": "bytes_in", "datatype": "BYTES", "shape": [4], "parameters": parameters}
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {"Inference-Header-Content-Length": length or str(len(head))}
    status, sentence = refused(places, "/v2/models/echo/infer", head + binary, headers)
    assert (status, words in sentence) == (400, True), sentence


def test_too_much_is_refused_while_it_is_read(places: Places) -> None:
    assert refused(places, "/v2/models/sum/infer", b" " * (1 << 19))[0] == 413
    assert refused(places, "/v2/models/sum/infer", b" " * (2 << 20))[0] == 413
    chunks = iter([b" " * (1 << 19)] * 4)
    connection = http.client.HTTPConnection(places.http_url, timeout=HANG_S)
    connection.request("POST", "/v2/models/sum/infer", chunks, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()
    bomb = gzip.compress(b" " * (8 << 20))
    assert refused(places, "/v2/models/sum/infer", bomb, {"Content-Encoding": "gzip"})[0] == 413
    assert refused(places, "/v2/models/sum/infer", b"x", {"Content-Encoding": "gzip"})[0] == 400
    assert refused(places, "/v2/models/sum/infer", b"x", {"Content-Encoding": "br"})[0] == 400


def test_refusals_say_when_to_come_back(places: Places) -> None:
    status, headers, body = ask(places, "POST", "/v2/models/full/infer", rows())
    assert (status, headers["retry-after"], json.loads(body)) == (429, "2", {"error": "the queue is full"})


def test_what_nobody_foresaw_tells_nothing(places: Places) -> None:
    status, sentence = refused(places, "/v2/models/broken/infer", rows())
    assert (status, sentence) == (500, "the server failed on this request; its log says why")


@pytest.mark.parametrize("path", ["/other", "/v2/", "/v2/models/sum/", "/v2/models/..%2f..%2fetc/infer", "/%00"])
def test_paths_lead_nowhere_else(places: Places, path: str) -> None:
    status, _, body = ask(places, "GET", path)
    assert status in (404, 405)
    assert list(json.loads(body)) == ["error"]


def test_a_wrong_method_is_refused(places: Places) -> None:
    assert ask(places, "GET", "/v2/models/sum/infer")[0] == 405
    assert ask(places, "POST", "/v2", {})[0] == 405


def test_generate(places: Places, engine: FakeEngine) -> None:
    body = {"id": "mine", "image": f"data:image/png;base64,{PNG}", "max_new_tokens": 9, "timeout": 10_000_000}
    status, _, answer = ask(places, "POST", "/v2/models/caption/generate", body)
    assert status == 200
    assert json.loads(answer) == {"model_name": "caption", "model_version": "1", "id": "mine", "text": "a red kite"}
    assert engine.seen[-1].inputs["image"].tolist() == [b"png"]
    assert engine.seen[-1].parameters == {"max_new_tokens": 9}
    body = {"a": [1, 2, 3, 4] * 2, "b": [1, 2, 3, 4] * 2}
    assert json.loads(ask(places, "POST", "/v2/models/sum/generate", body)[2])["total"][:2] == [2.0, 4.0]
    assert refused(places, "/v2/models/caption/generate", {"image": "data:image/png;base64,!"})[0] == 400
    assert refused(places, "/v2/models/caption/generate", {"image": {}})[0] == 400
    twice = {"image": "x", "max_new_tokens": 3, "parameters": {"max_new_tokens": 4}}
    assert refused(places, "/v2/models/caption/generate", twice) == (
        400,
        "parameter 'max_new_tokens': is given beside parameters and in it",
    )


def test_generate_streams(places: Places) -> None:
    status, headers, body = ask(places, "POST", "/v2/models/caption/generate_stream", {"image": "x"})
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    assert [event["text"] for event in _events(body)] == list(WORDS)
    status, _, body = ask(places, "POST", "/v2/models/sum/generate_stream", {"a": [1] * 4, "b": [1] * 4})
    assert [event["total"] for event in _events(body)] == [[2.0] * 4]


def test_a_refusal_amid_a_stream_is_its_last_event(places: Places) -> None:
    _, _, body = ask(places, "POST", "/v2/models/caption/generate_stream", {"image": "x", "max_new_tokens": 1})
    assert _events(body)[1:] == [{"error": "no more of it"}]
    assert refused(places, "/v2/models/caption/generate_stream", {"image": "x", "max_new_tokens": 99})[0] == 400
    assert refused(places, "/v2/models/full/generate_stream", {"a": [1] * 4, "b": [1] * 4})[0] == 429


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("priority", value) for value in ("high", -1, 1.5, True, None)),
        *((name, "true") for name in ("binary_data_output", "triton_enable_empty_final_response")),
    ],
)
def test_the_protocols_own_parameters_have_types(places: Places, name: str, value: Any) -> None:
    for body in ({"inputs": [], "parameters": {name: value}}, {"text": "a", name: value}):
        path = f"/v2/models/encode_text/{'infer' if 'inputs' in body else 'generate'}"
        assert refused(places, path, body) == (
            400,
            f"parameter {name}: is {'a whole number from 0' if name == 'priority' else 'true or false'}",
        )


def test_traces_are_continued(places: Places, engine: FakeEngine) -> None:
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    ask(places, "POST", "/v2/models/sum/infer", rows(), {"traceparent": trace})
    assert engine.seen[-1].trace.split("-")[1] == "a" * 32
    assert engine.seen[-1].trace.split("-")[2] != "b" * 16
    ask(places, "POST", "/v2/models/sum/infer", rows(), {"traceparent": "nonsense"})
    assert engine.seen[-1].trace.split("-")[1] != "a" * 32


def test_metrics_and_page(places: Places) -> None:
    ask(places, "POST", "/v2/models/sum/infer", rows())
    refused(places, "/v2/models/<b>/infer", rows())
    _, headers, text = ask(places, "GET", "/metrics")
    assert headers["content-type"].startswith("text/plain")
    assert b'internvl_request_seconds_bucket{le="0.0005",model="sum"}' in text
    assert b'internvl_rejections_total{model="",reason="UnknownModelError"}' in text
    _, headers, page = ask(places, "GET", "/")
    assert headers["content-type"].startswith("text/html")
    assert b"<td>sum<td>a FP32 [-1, 4], b FP32 [-1, 4]<td>total FP32 [-1, 4]" in page
    assert b"<b>" not in page


def test_not_ready_is_said(places: Places, engine: FakeEngine) -> None:
    engine.ready = False
    try:
        assert ask(places, "GET", "/v2/health/ready")[0] == 503
        assert ask(places, "GET", "/v2/models/sum/ready")[0] == 503
        assert ask(places, "GET", "/v2/health/live")[0] == 200
    finally:
        engine.ready = True


def test_keys_are_asked_for() -> None:
    engine = FakeEngine()
    with served(Service(engine, credentials=Credentials(["secret", "other"]))) as places:
        assert ask(places, "GET", "/v2/health/live")[0] == 200
        status, headers, body = ask(places, "POST", "/v2/models/sum/infer", rows())
        assert (status, headers["www-authenticate"]) == (401, "Bearer")
        assert "API key" in json.loads(body)["error"]
        for wrong in ({"x-api-key": "nonsense"}, {"Authorization": "Basic secret"}, {"Authorization": "Bearer"}):
            assert ask(places, "GET", "/v2", None, wrong)[0] == 401
        for right in ({"x-api-key": "secret"}, {"Authorization": "Bearer other"}):
            assert ask(places, "POST", "/v2/models/sum/infer", rows(), right)[0] == 200
        names = [request.client for request in engine.seen]
        assert len(set(names)) == 2
        assert "secret" not in "".join(names)


def test_keys_are_asked_for_over_grpc() -> None:
    triton = pytest.importorskip("tritonclient.grpc")
    service = Service(FakeEngine(), credentials=Credentials(["secret"]))
    with served(service) as places, triton.InferenceServerClient(places.grpc_url) as client:
        assert client.is_server_live()
        with pytest.raises(triton.InferenceServerException, match="API key") as caught:
            client.get_server_metadata()
        assert caught.value.status() == "StatusCode.UNAUTHENTICATED"
        assert client.get_server_metadata(headers={"authorization": "Bearer secret"}).name == "internvl-edge"


def test_a_server_that_drains_takes_nothing_new() -> None:
    service = Service(FakeEngine())
    with served(service) as places:
        service.drain()
        assert ask(places, "GET", "/v2/health/ready")[0] == 503
        status, headers, _ = ask(places, "POST", "/v2/models/sum/infer", rows())
        assert (status, headers["retry-after"]) == (503, "30")
