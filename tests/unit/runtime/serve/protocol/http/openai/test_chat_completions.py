"""Chat completions over HTTP: answers and streams, refusals in OpenAI's form, clients that leave, and figures."""

import http.client
import io
import json
from typing import Any

import pytest

from internvl_edge.runtime.serve.observe.access_log import AccessLog
from internvl_edge.runtime.serve.protocol.http.openai import handlers
from internvl_edge.runtime.serve.protocol.service import Service
from tests.tolerances import HANG_S
from tests.unit.runtime.serve.fake_engine import WORDS, FakeEngine, Places, served
from tests.unit.runtime.serve.protocol.http.asking import ask, refused
from tests.unit.runtime.serve.protocol.http.conftest import OPTIONS
from tests.unit.runtime.serve.protocol.http.openai.test_messages import picture, png, text, user

PATH = "/v1/chat/completions"


def body(question: Any = "Hello", **fields: Any) -> dict[str, Any]:
    content = user(question) if isinstance(question, str) else user(*question)
    return {"model": "internvl-chat", "messages": [content], **fields}


def events(raw: bytes) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in raw.decode().split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def test_an_answer_and_what_the_engine_was_asked(places: Places, engine: FakeEngine) -> None:
    asked = body([picture(), text("What?")], temperature=0.5, max_tokens=len(WORDS), stop=["\n"], seed=4)
    status, _, raw = ask(places, "POST", PATH, asked)
    answer = json.loads(raw)
    assert status == 200, raw
    assert answer["choices"][0]["message"]["content"] == "".join(WORDS)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    request = engine.seen[-1]
    assert request.id == answer["id"]
    assert request.inputs["image"].tolist() == [png()]
    assert request.inputs["stop"].tolist() == [b"\n"]
    assert request.parameters == {"temperature": 0.5, "max_new_tokens": len(WORDS), "seed": 4}
    assert request.deadline is not None


def test_a_drawn_answer_has_a_seed_so_that_another_worker_can_take_it_up(places: Places, engine: FakeEngine) -> None:
    seeds = []
    for _ in range(2):
        assert ask(places, "POST", PATH, body(temperature=1))[0] == 200
        seeds.append(engine.seen[-1].parameters["seed"])
    assert seeds[0] != seeds[1]
    assert ask(places, "POST", PATH, body())[0] == 200
    assert "seed" not in engine.seen[-1].parameters


def test_a_stream_ends_with_done(places: Places) -> None:
    status, headers, raw = ask(places, "POST", PATH, body(stream=True, stream_options={"include_usage": True}))
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    *chunks, usage, end = events(raw)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "".join(WORDS)
    assert usage["usage"]["completion_tokens"] == 3
    assert end == "[DONE]"


def test_a_refusal_before_the_first_chunk_is_a_status(places: Places) -> None:
    status, error = refused(places, PATH, body("refused", stream=True))
    assert status == 400
    assert error == {
        "message": "chat: the prompt has 120 tokens, the context 100",
        "type": "invalid_request_error",
        "param": "messages",
        "code": None,
    }


def test_a_failure_amid_a_stream_is_its_last_event(places: Places) -> None:
    status, _, raw = ask(places, "POST", PATH, body("broken", stream=True))
    *_, last = events(raw)
    assert status == 200
    assert last["error"]["type"] == "server_error"
    assert b"[DONE]" not in raw


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"model": "gpt-4o"}, 404, "model"),
        ({"model": "internvl-c"}, 404, "model"),
        ({"messages": []}, 400, "messages"),
        ({"tools": [{}]}, 400, "tools"),
        ({"best_of": 2}, 400, "best_of"),
    ],
)
def test_refusals_name_the_field(places: Places, change: dict[str, Any], status: int, param: str) -> None:
    got, error = refused(places, PATH, {**body(), **change})
    assert (got, error["param"]) == (status, param)


def test_a_body_that_is_no_json_is_refused_in_openai_s_form(places: Places) -> None:
    status, error = refused(places, PATH, "{")
    assert status == 400
    assert error["message"].startswith("the body is no JSON")


def test_a_large_body_is_read_in_a_thread(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "_READ_AT_ONCE", 10)
    assert ask(places, "POST", PATH, body())[0] == 200
    assert refused(places, PATH, body(n=2))[1]["param"] == "n"


def test_a_long_body_is_taken_for_its_pictures_and_not_for_its_elements(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = body([picture(png() + bytes(300_000)), text("What?")])
    assert len(json.dumps(long)) > OPTIONS.json_bytes
    assert ask(places, "POST", PATH, long)[0] == 200
    monkeypatch.setattr(handlers, "_MOST_ELEMENTS", 100)
    assert ask(places, "POST", PATH, long)[0] == 200
    long["metadata"] = {str(number): "" for number in range(200)}
    status, error = refused(places, PATH, long)
    assert (status, error["message"]) == (413, "the JSON has more than 100 elements; send fewer, or shorter texts")


def test_a_bundle_without_a_language_model_has_no_chat() -> None:
    engine = FakeEngine()
    del engine.models["chat"]
    with served(Service(engine)) as places:
        status, error = refused(places, PATH, body())
        assert (status, error["message"]) == (
            404,
            "this server has no chat model; serve a bundle with a language model",
        )
        listed = json.loads(ask(places, "GET", "/v1/models")[2])["data"]
        assert [model["id"] for model in listed] == ["internvl-c", "internvl-g"]
        engine.models.clear()
        assert refused(places, PATH, body())[0] == 503


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_answer(stream: bool) -> None:
    engine = FakeEngine()
    with served(Service(engine)) as places:
        connection = http.client.HTTPConnection(places.http_url, timeout=HANG_S)
        connection.request("POST", PATH, json.dumps(body("slow", stream=stream)))
        if stream:
            assert connection.getresponse().read(10)
        else:
            while not engine.seen:
                pass
        connection.close()
        assert (engine.streams_closed if stream else engine.cancelled).wait(HANG_S)


def test_answers_are_counted_and_logged() -> None:
    log = io.StringIO()
    service = Service(FakeEngine(), access_log=AccessLog(log))
    with served(service) as places:
        identifier = json.loads(ask(places, "POST", PATH, body())[2])["id"]
        ask(places, "POST", PATH, body(stream=True))
        ask(places, "POST", PATH, body("broken", stream=True))
        figures = ask(places, "GET", "/metrics")[2].decode()
        page = ask(places, "GET", "/")[2].decode()
    assert 'internvl_first_token_seconds_count{model="chat"} 2.0' in figures
    assert 'internvl_answer_tokens_per_second_count{model="chat"} 2.0' in figures
    assert 'internvl_tokens_total{kind="completion",model="chat"} 6.0' in figures
    assert 'internvl_tokens_total{kind="prompt",model="chat"} 14.0' in figures
    assert '<td>chat<td class="n">2<td class="n">14<td class="n">6' in page
    whole, streamed, broken = (json.loads(line) for line in log.getvalue().splitlines()[:3])
    for line in (whole, streamed):
        assert (line["model"], line["finish_reason"]) == ("chat", "stop")
        assert (line["prompt_tokens"], line["completion_tokens"]) == (7, 3)
        assert 0 <= line["first_ms"] <= line["ms"]
    assert whole["id"] == identifier
    assert "completion_tokens" not in broken


def test_the_same_model_answers_triton_s_generate(places: Places) -> None:
    status, _, raw = ask(places, "POST", "/v2/models/chat/generate", {"question": "Hello"})
    assert (status, json.loads(raw)["text"]) == (200, "".join(WORDS))
    asked = {"question": "And?", "history": ["Who?", "Me."], "temperature": 0.5}
    assert ask(places, "POST", "/v2/models/chat/generate_stream", asked)[0] == 200
