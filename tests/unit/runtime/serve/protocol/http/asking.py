"""Requests over HTTP to a server in this process, and what they ask for."""

import base64
import http.client
import json
from typing import Any

from tests.tolerances import HANG_S
from tests.unit.runtime.serve.fake_engine import Places

PNG = base64.b64encode(b"png").decode()


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


def rows(**changes: Any) -> dict[str, Any]:
    """Return a request of `sum`, with changes to both of its tensors."""
    tensor = {"datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4], **changes}
    return {"inputs": [{"name": "a", **tensor}, {"name": "b", **tensor}]}
