"""OpenAI's embeddings: pictures and texts, optional fields, and refusals in OpenAI's own form."""

import base64
import json
import threading
import time
from typing import Any

import numpy as np
import pytest

from internvl_edge.runtime.serve.protocol.service import Service
from tests.unit.runtime.serve.fake_engine import WIDTH, FakeEngine, Places, served
from tests.unit.runtime.serve.protocol.http.asking import PNG, ask, refused


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
        "internvl-chat",
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


def test_one_of_openais_models_may_be_asked_for(places: Places) -> None:
    status, _, body = ask(places, "GET", "/v1/models/internvl-g")
    assert (status, json.loads(body)["id"]) == (200, "internvl-g")
    status, _, body = ask(places, "GET", "/v1/models/gpt")
    assert (status, json.loads(body)["error"]["type"]) == (404, "not_found_error")
