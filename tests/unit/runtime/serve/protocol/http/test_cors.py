"""Pages of other origins: preflights, answers and refusals, as a browser wants them."""

import http.client
import json
from collections.abc import Iterator, Mapping

import pytest

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.serve.protocol.credentials import Credentials
from internvl_edge.runtime.serve.protocol.http.cors import CrossOrigin, require_origins
from internvl_edge.runtime.serve.protocol.service import Service
from tests.tolerances import HANG_S
from tests.unit.runtime.serve.fake_engine import FakeEngine, Places, served

SHOP, OTHER = "https://shop.example", "https://other.example:8443"
ALLOW = "access-control-allow-origin"
KEY = {"authorization": "Bearer secret"}
BODY = json.dumps({"inputs": [{"name": n, "datatype": "FP32", "shape": [1, 4], "data": [1] * 4} for n in "ab"]})


@pytest.fixture(scope="module")
def places() -> Iterator[Places]:
    with served(Service(FakeEngine(), credentials=Credentials(["secret"])), cors_origins=(SHOP, OTHER)) as places:
        yield places


@pytest.fixture(scope="module")
def plain() -> Iterator[Places]:
    with served(Service(FakeEngine())) as places:
        yield places


def ask(
    places: Places, method: str, path: str, headers: Mapping[str, str], body: str = ""
) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection(places.http_url, timeout=HANG_S)
    connection.request(method, path, body or None, dict(headers))
    answer = connection.getresponse()
    got = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()
    connection.close()
    return got


def preflight(places: Places, origin: str, path: str = "/v2/models/sum/infer") -> tuple[int, dict[str, str], str]:
    wanted = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    return ask(places, "OPTIONS", path, {"origin": origin, **wanted})


@pytest.mark.parametrize("origin", [SHOP, OTHER, "HTTPS://Shop.example"])
@pytest.mark.parametrize("path", ["/v2/models/sum/infer", "/v1/embeddings", "/v2"])
def test_a_preflight_is_answered_without_a_key(places: Places, origin: str, path: str) -> None:
    status, headers, body = preflight(places, origin, path)
    assert (status, body) == (204, "")
    assert headers[ALLOW] == origin
    assert "POST" in headers["access-control-allow-methods"]
    assert headers["access-control-allow-headers"] == "authorization,content-type"
    assert headers["access-control-max-age"] == "600"
    assert headers["vary"] == "Origin"


def test_a_page_of_no_allowed_origin_is_refused(places: Places) -> None:
    status, headers, body = preflight(places, "https://evil.example")
    assert status == 403
    assert ALLOW not in headers
    assert "'https://evil.example' may not ask here; serve with --cors-origin" in json.loads(body)["error"]


@pytest.mark.parametrize(
    ("path", "key", "body", "status"),
    [
        ("/v2/models/sum/infer", KEY, BODY, 200),
        ("/v2/models/sum/infer", KEY, "{", 400),
        ("/v2/models/sum/infer", {}, BODY, 401),
        ("/v2/models/nope/infer", KEY, BODY, 404),
        ("/nothing", KEY, BODY, 404),
        ("/v2/models/crowded/infer", KEY, BODY, 429),  # by its head alone
        ("/v2/models/broken/infer", KEY, BODY, 500),
        ("/v1/embeddings", KEY, "{}", 404),
    ],
)
def test_answers_and_refusals_may_be_read(
    places: Places, path: str, key: Mapping[str, str], body: str, status: int
) -> None:
    got, headers, _ = ask(places, "POST", path, {"origin": SHOP, **key}, body)
    assert got == status
    assert headers[ALLOW] == SHOP
    assert "retry-after" in headers["access-control-expose-headers"]
    got, headers, _ = ask(places, "POST", path, {"origin": "https://evil.example", **key}, body)
    assert got == status  # browsers alone care
    assert ALLOW not in headers
    assert headers["vary"] == "Origin"


def test_a_stream_may_be_read(places: Places) -> None:
    body = json.dumps({"image": "x"})
    got, headers, _ = ask(places, "POST", "/v2/models/caption/generate_stream", {"origin": SHOP, **KEY}, body)
    assert (got, headers[ALLOW]) == (200, SHOP)


def test_without_the_option_nothing_is_said_of_it(plain: Places) -> None:
    status, headers, _ = preflight(plain, SHOP)
    assert status == 405
    assert not [name for name in headers if name.startswith("access-control")]
    _, headers, _ = ask(plain, "POST", "/v2/models/sum/infer", {"origin": SHOP}, BODY)
    assert not [name for name in headers if name.startswith("access-control")]
    assert "vary" not in headers


def test_everybody_may_be_allowed() -> None:
    lines = dict(CrossOrigin(["*"]).lines("https://anybody.example"))
    assert lines[ALLOW.encode()] == b"*"
    assert b"vary" not in lines


def test_other_options_requests_are_no_preflights(places: Places) -> None:
    assert ask(places, "OPTIONS", "/v2", {"origin": SHOP, **KEY})[0] == 405


@pytest.mark.parametrize("origin", ["shop.example", "https://shop.example/", "https://*.example", "", "https://a b"])
def test_what_is_no_origin_is_reported(origin: str) -> None:
    require_origins([SHOP, OTHER, "*", "null", "http://localhost:3000", "tauri://localhost"])
    with pytest.raises(InputError, match="no origin; give a scheme, a host and its port"):
        require_origins([SHOP, origin])
