"""Answers in JSON, and refusals in the words of each protocol."""

import json

import numpy as np
import pytest

from internvl_edge.runtime.serve.protocol.http.responses import (
    error_response,
    json_bytes,
    json_response,
    refusal_response,
)
from internvl_edge.runtime.serve.refusals import (
    BadRequestError,
    FailedError,
    OverloadedError,
    RefusalError,
    UnauthorizedError,
    UnknownModelError,
)


def test_arrays_are_json_with_the_digits_of_their_type() -> None:
    content = {"a": np.array([[0.1, 2]], np.float32), "b": np.array([1, -2]), "c": "ü"}
    assert json_bytes(content) == '{"a":[[0.1,2.0]],"b":[1,-2],"c":"ü"}'.encode()


def test_an_answer_has_its_type_status_and_headers() -> None:
    found = json_response({"a": 1}, 202, {"X-A": "b"})
    assert (found.status_code, found.body) == (202, b'{"a":1}')
    assert (found.headers["content-type"], found.headers["x-a"]) == ("application/json", "b")


@pytest.mark.parametrize(
    ("refusal", "headers"),
    [
        (BadRequestError("no"), {}),
        (UnknownModelError("no"), {}),
        (UnauthorizedError("no"), {"www-authenticate": "Bearer"}),
        (OverloadedError("no", 0.01), {"retry-after": "1"}),
        (OverloadedError("no", 1.2), {"retry-after": "2"}),
    ],
)
def test_a_refusal_has_its_code_and_what_a_client_needs(refusal: RefusalError, headers: dict[str, str]) -> None:
    found = refusal_response(refusal, "/v2/models/m/infer")
    assert (found.status_code, json.loads(found.body)) == (refusal.http, {"error": "no"})
    given = {name: found.headers[name] for name in ("www-authenticate", "retry-after") if name in found.headers}
    assert given == headers


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "not_found_error"),
        (413, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "server_error"),
        (503, "server_error"),
    ],
)
def test_openais_paths_have_openais_errors(status: int, kind: str) -> None:
    found = error_response("no", status, "/v1/embeddings")
    assert json.loads(found.body) == {"error": {"message": "no", "type": kind, "param": None, "code": None}}
    assert json.loads(error_response("no", status, "/v2").body) == {"error": "no"}


def test_a_failure_of_the_model_is_the_servers() -> None:
    assert refusal_response(FailedError("no"), "/v1/models").status_code == 500
