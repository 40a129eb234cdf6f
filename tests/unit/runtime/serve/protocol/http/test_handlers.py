"""HTTP as curl and other clients speak it: every path, refusals, keys, TLS, slow clients and those who hang up."""

import base64
import contextlib
import gzip
import http.client
import json
import os
import socket
import ssl
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from internvl_edge.runtime.serve.protocol.credentials import Credentials
from internvl_edge.runtime.serve.protocol.options import ProtocolOptions
from internvl_edge.runtime.serve.protocol.service import Service
from tests.tolerances import HANG_S
from tests.unit.runtime.serve.fake_engine import WIDTH, WORDS, FakeEngine, Places, served

OPTIONS = ProtocolOptions(body_bytes=1 << 20, json_bytes=1 << 18)
HASTY = ProtocolOptions(header_s=0.3, body_s=0.3, write_s=0.3)
PNG = base64.b64encode(b"png").decode()


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(scope="module")
def service(engine: FakeEngine) -> Service:
    return Service(engine, options=OPTIONS, count_tokens=lambda texts: 7 * len(texts))


@pytest.fixture(scope="module")
def places(service: Service) -> Iterator[Places]:
    with served(service) as places:
        yield places


def ask(
    places: Places, method: str, path: str, body: Any = None, headers: "dict[str, str] | None" = None
) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of an answer."""
    connection = http.client.HTTPConnection(places.http_url, timeout=HANG_S)
    sent = json.dumps(body) if isinstance(body, (dict, list)) else body
    connection.request(method, path, sent, headers or {})
    answer = connection.getresponse()
    got = answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
    connection.close()
    return got


def refused(places: Places, path: str, body: Any, headers: "dict[str, str] | None" = None) -> tuple[int, str]:
    """Return the status and sentence of a refusal."""
    status, _, answer = ask(places, "POST", path, body, headers)
    return status, json.loads(answer)["error"]


def _rows(**changes: Any) -> dict[str, Any]:
    tensor = {"datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4], **changes}
    return {"inputs": [{"name": "a", **tensor}, {"name": "b", **tensor}]}


def _events(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(event.removeprefix(b"data: ")) for event in body.split(b"\n\n") if event]


def test_infer_in_json(places: Places) -> None:
    status, _, body = ask(places, "POST", "/v2/models/sum/versions/1/infer", {**_rows(), "id": "mine"})
    assert status == 200
    output = {"name": "total", "datatype": "FP32", "shape": [1, 4], "data": [2.0, 4.0, 6.0, 8.0]}
    assert json.loads(body) == {"model_name": "sum", "model_version": "1", "outputs": [output], "id": "mine"}
    assert ask(places, "POST", "/v2/models/sum/infer", _rows(data=[[1, 2, 3, 4]]))[0] == 200


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
        (_rows(data=[1, 2, 3]), "4 elements, got 3"),
        (_rows(data="1234"), "data is a list"),
        (_rows(data=[1, 2, 3, "4"]), "are numbers"),
        (_rows(data=[[1, 2], 3, 4]), "elements"),
        (_rows(data=[1, 2, 3, None]), "are numbers"),
        (_rows(data=[1, 2, 3, 1e300]), "beyond FP32"),
        (_rows(data=[1, 2, 3, 10**400]), "beyond FP32"),
        (json.dumps(_rows(data=[1, 2, 3, float("nan")])), "NaN is no number"),
        (_rows(shape=[1, -4]), "no list of sizes"),
        (_rows(shape=[1, 2**40]), "no list of sizes"),
        (_rows(shape="14"), "no list of sizes"),
        (_rows(datatype="FP31"), "is none of"),
        (_rows(parameters={"binary_data_size": 16}), "does not fit"),
        (_rows(parameters={"shared_memory_region": "mine"}), "takes binary_data_size"),
        ({"inputs": [_rows()["inputs"][0]] * 2}, "given twice"),
        ('{"inputs": [], "inputs": []}', "the JSON has 'inputs' twice in one object"),
        ('{"parameters": {"timeout": 1, "timeout": 2}}', "'timeout' twice"),
        ('{"inputs": [{"name": "a", "name": "b"}]}', "'name' twice"),
        ({**_rows(), "outputs": [{"name": "total"}] * 2}, "output 'total': is asked for twice"),
        ({**_rows(), "outputs": [{"name": "other"}]}, "no output"),
        ({**_rows(), "outputs": [{"name": "total", "parameters": {"classification": 2}}]}, "classification"),
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
    status, headers, body = ask(places, "POST", "/v2/models/full/infer", _rows())
    assert (status, headers["retry-after"], json.loads(body)) == (429, "2", {"error": "the queue is full"})


def test_what_nobody_foresaw_tells_nothing(places: Places) -> None:
    status, sentence = refused(places, "/v2/models/broken/infer", _rows())
    assert (status, sentence) == (500, "the server failed on this request; its log says why")


@pytest.mark.parametrize("path", ["/other", "/v2/", "/v2/models/sum/", "/v2/models/..%2f..%2fetc/infer", "/%00"])
def test_paths_lead_nowhere_else(places: Places, path: str) -> None:
    status, _, body = ask(places, "GET", path)
    assert status in (404, 405)
    assert list(json.loads(body)) == ["error"]


def test_a_wrong_method_is_refused(places: Places) -> None:
    assert ask(places, "GET", "/v2/models/sum/infer")[0] == 405
    assert ask(places, "POST", "/v2", {})[0] == 405


def test_no_http_is_refused_in_json(places: Places) -> None:
    with socket.create_connection(("127.0.0.1", places.http), HANG_S) as client:
        client.sendall(b"nonsense\r\n\r\n")
        assert client.recv(4096).endswith(b'{"error":"invalid HTTP request received"}')


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


def test_openai_embeddings(places: Places) -> None:
    asked = {"model": "internvl-c", "input": ["four", f"data:image/png;base64,{PNG}"]}
    status, _, body = ask(places, "POST", "/v1/embeddings", asked)
    answer = json.loads(body)
    assert status == 200
    assert answer["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert [entry["index"] for entry in answer["data"]] == [0, 1]
    np.testing.assert_allclose(answer["data"][0]["embedding"], [0.8, 0.6, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(answer["data"][1]["embedding"], [0.5**0.5, 0.5**0.5, 0, 0], rtol=1e-6)
    _, _, body = ask(places, "POST", "/v1/embeddings", {**asked, "encoding_format": "base64"})
    packed = np.frombuffer(base64.b64decode(json.loads(body)["data"][0]["embedding"]), np.float32)
    assert packed.shape == (WIDTH,)
    assert [model["id"] for model in json.loads(ask(places, "GET", "/v1/models")[2])["data"]] == [
        "internvl-c",
        "internvl-g",
    ]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"model": "gpt"}, 404),
        ({"model": []}, 404),
        ({"input": []}, 400),
        ({"input": [1, 2]}, 400),
        ({"input": [{"text": "x"}]}, 400),
        ({"input": ["x"] * 2049}, 413),
        ({"input": ""}, 400),
        ({"input": "\ud800"}, 400),
        ({"dimensions": 2}, 400),
        ({"dimensions": "4"}, 400),
        ({"user": 7}, 400),
        ({"encoding_format": "text"}, 400),
        ({"temperature": 1}, 400),
    ],
)
def test_openai_refusals(places: Places, change: dict[str, Any], status: int) -> None:
    got, error = refused(places, "/v1/embeddings", {"model": "internvl-c", "input": "x", **change})
    assert got == status
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "change",
    [
        {"encoding_format": None},
        {"dimensions": WIDTH},
        {"dimensions": None},
        {"user": None},
        {"user": "me"},
        {"encoding_format": None, "dimensions": WIDTH, "user": "me"},
    ],
)
def test_openais_optional_fields_are_taken(places: Places, change: dict[str, Any]) -> None:
    plain = ask(places, "POST", "/v1/embeddings", {"model": "internvl-g", "input": "four"})
    given = ask(places, "POST", "/v1/embeddings", {"model": "internvl-g", "input": "four", **change})
    assert (given[0], given[2]) == (200, plain[2])


@pytest.mark.parametrize("ids", [[5, 6, 7], [[5, 6, 7]], ["text", [5]]])
def test_ids_in_place_of_text_are_reported_as_what_they_are(places: Places, ids: list[Any]) -> None:
    status, error = refused(places, "/v1/embeddings", {"model": "internvl-c", "input": ids})
    assert status == 400
    assert "ids of tokens are not taken" in error["message"]  # type: ignore[index]
    assert "send the text" in error["message"]  # type: ignore[index]


def test_a_large_batch_without_a_deadline_has_one_for_each_of_its_batches(places: Places, engine: FakeEngine) -> None:
    before = time.monotonic()
    many = {"model": "internvl-c", "input": [f"text {number}" for number in range(1024)]}
    assert ask(places, "POST", "/v1/embeddings", many)[0] == 200
    deadline = engine.seen[-1].deadline
    assert deadline is not None
    assert before + 32 <= deadline <= time.monotonic() + 32  # half a second for each 16 of 1024 texts


def test_tokens_of_long_texts_are_counted_beside_the_event_loop() -> None:
    threads: list[int] = []

    def count(texts: Any) -> int:
        threads.append(threading.get_ident())
        return len(texts)

    with served(Service(FakeEngine(), count_tokens=count)) as places:
        for text in ("short", "long " * 10_000):
            status, _, answer = ask(places, "POST", "/v1/embeddings", {"model": "internvl-c", "input": text})
            assert (status, json.loads(answer)["usage"]["prompt_tokens"]) == (200, 1)
    assert len(set(threads)) == 2


def test_what_no_graph_embeds_is_refused_by_its_place() -> None:
    for missing, items, words in (
        ("encode_image", ["a", f"data:image/png;base64,{PNG}"], "input 1: pictures are not embedded here"),
        ("encode_text", [f"data:image/png;base64,{PNG}", "a", "b"], "input 1, 2: texts are not embedded here"),
    ):
        engine = FakeEngine()
        engine.models = {name: model for name, model in engine.models.items() if name != missing}
        with served(Service(engine)) as places:
            status, _, answer = ask(places, "POST", "/v1/embeddings", {"model": "internvl-c", "input": items})
        assert status == 400
        assert json.loads(answer)["error"]["message"].startswith(words)


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


def test_one_of_openais_models_may_be_asked_for(places: Places) -> None:
    status, _, body = ask(places, "GET", "/v1/models/internvl-g")
    assert (status, json.loads(body)["id"]) == (200, "internvl-g")
    status, _, body = ask(places, "GET", "/v1/models/gpt")
    assert (status, json.loads(body)["error"]["type"]) == (404, "not_found_error")


def test_a_client_that_hangs_up_cancels_the_work(places: Places, engine: FakeEngine, service: Service) -> None:
    engine.cancelled.clear()
    connection = http.client.HTTPConnection(places.http_url, timeout=HANG_S)
    connection.request("POST", "/v2/models/slow/infer", json.dumps(_rows()))
    time.sleep(0.2)
    connection.close()
    assert engine.cancelled.wait(HANG_S)
    while not service.record.exchanges["slow", "http", "499"]:
        time.sleep(0.01)


def test_a_stream_that_nobody_reads_is_closed(places: Places, engine: FakeEngine) -> None:
    engine.streams_closed.clear()
    connection = http.client.HTTPConnection(places.http_url, timeout=HANG_S)
    connection.request("POST", "/v2/models/caption/generate_stream", json.dumps({"image": "x"}))
    connection.getresponse().read(10)
    connection.close()
    assert engine.streams_closed.wait(HANG_S)


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"POST /v2/models/sum/infer HTTP/1.1\r\nHost: x\r\n",
        b"POST /v2/models/sum/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
        b"POST /v2/models/sum/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
    ],
)
def test_slow_clients_are_cut(begun: bytes) -> None:
    with served(Service(FakeEngine(), options=HASTY)) as places:
        start = time.monotonic()
        with socket.create_connection(("127.0.0.1", places.http), HANG_S) as client:
            client.sendall(begun)
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1024) == b""
            assert time.monotonic() - start > 0.29, "cut at once"


def test_an_endless_head_is_cut(places: Places) -> None:
    with socket.create_connection(("127.0.0.1", places.http), HANG_S) as client:
        client.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 100_000)
        assert b" 400 " in client.recv(4096)


def test_traces_are_continued(places: Places, engine: FakeEngine) -> None:
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    ask(places, "POST", "/v2/models/sum/infer", _rows(), {"traceparent": trace})
    assert engine.seen[-1].trace.split("-")[1] == "a" * 32
    assert engine.seen[-1].trace.split("-")[2] != "b" * 16
    ask(places, "POST", "/v2/models/sum/infer", _rows(), {"traceparent": "nonsense"})
    assert engine.seen[-1].trace.split("-")[1] != "a" * 32


def test_metrics_and_page(places: Places) -> None:
    ask(places, "POST", "/v2/models/sum/infer", _rows())
    refused(places, "/v2/models/<b>/infer", _rows())
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
        status, headers, body = ask(places, "POST", "/v2/models/sum/infer", _rows())
        assert (status, headers["www-authenticate"]) == (401, "Bearer")
        assert "API key" in json.loads(body)["error"]
        for wrong in ({"x-api-key": "nonsense"}, {"Authorization": "Basic secret"}, {"Authorization": "Bearer"}):
            assert ask(places, "GET", "/v2", None, wrong)[0] == 401
        for right in ({"x-api-key": "secret"}, {"Authorization": "Bearer other"}):
            assert ask(places, "POST", "/v2/models/sum/infer", _rows(), right)[0] == 200
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


def test_tls(tmp_path: Path) -> None:
    grpc = pytest.importorskip("grpc")
    triton = pytest.importorskip("tritonclient.grpc")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    try:
        subprocess.run([*made, "-keyout", key, "-out", cert, *name], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs openssl to make a certificate")
    with served(Service(FakeEngine()), tls_cert=cert, tls_key=key) as places:
        trust = ssl.create_default_context(cafile=str(cert))
        connection = http.client.HTTPSConnection(places.http_url, context=trust, timeout=HANG_S)
        connection.request("GET", "/v2/health/live")
        assert connection.getresponse().status == 200
        connection.close()
        credentials = grpc.ssl_channel_credentials(cert.read_bytes())
        with triton.InferenceServerClient(f"localhost:{places.grpc}", ssl=True, creds=credentials) as client:
            assert client.is_server_live()


def test_a_server_that_drains_takes_nothing_new() -> None:
    service = Service(FakeEngine())
    with served(service) as places:
        service.drain()
        assert ask(places, "GET", "/v2/health/ready")[0] == 503
        status, headers, _ = ask(places, "POST", "/v2/models/sum/infer", _rows())
        assert (status, headers["retry-after"]) == (503, "30")


def test_answers_are_not_delayed(places: Places) -> None:
    """Nagle's delay, which would add 40 ms to every answer on a connection that is kept, is off at the server's end."""
    connection = http.client.HTTPConnection(places.http_url, timeout=HANG_S)
    connection.request("POST", "/v2/models/sum/infer", json.dumps(_rows()))
    assert connection.getresponse().read()
    assert _without_delay(connection.sock.getsockname()) == [True]
    connection.close()


def _without_delay(client: object) -> list[bool]:
    """Return whether Nagle's delay is off on the connections to `client` of this process, where the server is."""
    found = []
    for number in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        with contextlib.suppress(OSError):  # others are no connections
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                with socket.socket(fileno=os.dup(number)) as each:
                    if each.getpeername() == client:
                        found.append(each.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0)
    return found
