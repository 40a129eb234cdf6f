"""The OpenAPI document and its page against the paths that are answered, and answers against its schemas."""

import http.client
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from internvl_edge.runtime.serve.protocol.credentials import Credentials
from internvl_edge.runtime.serve.protocol.http.document.openapi import model_words, openapi
from internvl_edge.runtime.serve.protocol.http.document.operations import OPERATIONS
from internvl_edge.runtime.serve.protocol.http.handlers import HANDLERS, ROUTES
from internvl_edge.runtime.serve.protocol.service import Service
from tests.tolerances import HANG_S
from tests.unit.runtime.serve.fake_engine import FakeEngine, Places, served

HELLO = {"model": "internvl-chat", "messages": [{"role": "user", "content": "Hello"}]}
ROWS = {"inputs": [{"name": n, "datatype": "FP32", "shape": [1, 4], "data": [1] * 4} for n in "ab"]}


@pytest.fixture(scope="module")
def places() -> Iterator[Places]:
    with served(Service(FakeEngine())) as places:
        yield places


@pytest.fixture(scope="module")
def document(places: Places) -> Any:
    return json.loads(ask(places, "GET", "/openapi.json"))


def ask(places: Places, method: str, path: str, body: Any = None, headers: "dict[str, str] | None" = None) -> str:
    connection = http.client.HTTPConnection(places.http_url, timeout=HANG_S)
    connection.request(method, path, None if body is None else json.dumps(body), headers or {})
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def test_every_path_that_is_answered_is_described_and_no_other(document: Any) -> None:
    answered = {(method, path) for method, path, _ in ROUTES}
    assert set(OPERATIONS) == answered
    assert {operation.answer for operation in OPERATIONS.values()} == set(HANDLERS)
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert described == answered


def test_the_document_is_sound(document: Any) -> None:
    assert document["openapi"].startswith("3.1")
    text = json.dumps(document)
    for name in re.findall(r'"#/components/schemas/(\w+)"', text):
        assert name in document["components"]["schemas"]
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    identities = [operation["operationId"] for operation in operations]
    assert len(set(identities)) == len(identities)
    for path, methods in document["paths"].items():
        for operation in methods.values():
            named = [parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"]
            assert named == re.findall(r"{(\w+)}", path)
            binary = "application/octet-stream" in operation.get("requestBody", {}).get("content", {})
            headers = [parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "header"]
            assert headers == ["inference-header-content-length"] * binary  # without it the body is read as JSON
            assert operation["summary"].endswith(".")
    assert not re.findall(r"https?://", text)


def test_models_are_named(document: Any) -> None:
    model, _ = document["paths"]["/v2/models/{model}/infer"]["post"]["parameters"]
    assert {"sum", "caption"} <= set(model["schema"]["enum"])
    assert "a FP32 [-1, 4], b FP32 [-1, 4] -> total FP32 [-1, 4]" in model["description"]
    (model,) = document["paths"]["/v1/models/{model}"]["get"]["parameters"]
    assert model["schema"]["enum"] == ["internvl-c", "internvl-g", "internvl-chat"]


@pytest.mark.parametrize(
    ("method", "path", "body", "schema"),
    [
        ("POST", "/v2/models/sum/infer", ROWS, "InferResponse"),
        ("POST", "/v2/models/sum/infer", {"inputs": []}, "Error"),
        ("POST", "/v2/models/caption/generate", {"image": "x"}, "Generated"),
        ("GET", "/v2/models/sum", None, "ModelMetadata"),
        ("POST", "/v1/embeddings", {"model": "internvl-c", "input": "a red kite"}, "EmbeddingsResponse"),
        ("POST", "/v1/embeddings", {"model": "gpt"}, "OpenAIError"),
        ("POST", "/v1/chat/completions", HELLO, "ChatCompletion"),
        ("POST", "/v1/chat/completions", {**HELLO, "logprobs": True}, "ChatCompletion"),
        ("POST", "/v1/chat/completions", {**HELLO, "n": 2}, "OpenAIError"),
    ],
)
def test_bodies_and_answers_are_of_their_schemas(
    places: Places, document: Any, method: str, path: str, body: Any, schema: str
) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator({"$ref": f"#/components/schemas/{schema}", **document})
    validator.validate(json.loads(ask(places, method, path, body)))


def test_examples_are_of_their_schemas(document: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    seen = 0
    for methods in document["paths"].values():
        for operation in methods.values():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                if "example" in content:
                    jsonschema.Draft202012Validator({**content["schema"], **document}).validate(content["example"])
                    seen += 1
    assert seen >= 4


def test_a_completion_is_json_or_events(document: Any) -> None:
    answer = document["paths"]["/v1/chat/completions"]["post"]["responses"]["200"]
    assert set(answer["content"]) == {"application/json", "text/event-stream"}


def test_keys_are_reported_where_they_are_wanted() -> None:
    with served(Service(FakeEngine(), credentials=Credentials(["secret"]))) as places:
        assert "API key" in ask(places, "GET", "/openapi.json")
        told = json.loads(ask(places, "GET", "/openapi.json", headers={"x-api-key": "secret"}))
        assert told["security"] == [{"bearer": []}, {"key": []}]
        assert told["paths"]["/v2/health/live"]["get"]["security"] == []
        assert "security" not in told["paths"]["/v2"]["get"]
        assert "<!doctype html>" in ask(places, "GET", "/docs", headers={"x-api-key": "secret"})


def test_the_page_needs_nothing_from_elsewhere(places: Places) -> None:
    page = ask(places, "GET", "/docs")
    assert not re.findall(r"<script|<link|<img|@import|url\(", page)
    assert {*re.findall(r'(?:href|src)="([^"]*)"', page)} == {"openapi.json"}
    assert set(re.findall(r"https?://[^/\s]*", page)) <= {f"http://{places.http_url}"}
    for _, path in OPERATIONS:
        assert "/versions/" in path or f"<code>{path}</code>" in page
    assert "curl http://" in page


def test_a_host_that_a_client_makes_up_is_escaped(places: Places) -> None:
    page = ask(places, "GET", "/docs", headers={"host": "<script>alert(1)</script>"})
    assert "<script" not in page


def test_a_model_is_one_line() -> None:
    assert model_words(FakeEngine().signatures["sum"]) == "a FP32 [-1, 4], b FP32 [-1, 4] -> total FP32 [-1, 4]"


@pytest.mark.parametrize("keys", [False, True])
def test_a_server_with_keys_says_so_and_health_needs_none(keys: bool) -> None:
    found = openapi(FakeEngine().signatures, "1.2", keys)
    assert found["info"]["version"] == "1.2"
    assert found["security"] == ([{"bearer": []}, {"key": []}] if keys else [])
    assert found["paths"]["/v2/health/live"]["get"]["security"] == []
    assert "security" not in found["paths"]["/v2/models/{model}/infer"]["post"]


def test_models_that_are_not_open_yet_are_any_name() -> None:
    (model, *_) = openapi({}, "1", keys=False)["paths"]["/v2/models/{model}/infer"]["post"]["parameters"]
    assert model["schema"] == {"type": "string"}
    (model, *_) = openapi(FakeEngine().signatures, "1", keys=False)["paths"]["/v2/models/{model}/infer"]["post"][
        "parameters"
    ]
    assert model["schema"]["enum"] == list(FakeEngine().signatures)
