"""`serve` on the chat example: OpenAI's completions are the answers of the same model in this process."""

import base64
import http.client
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from internvl_edge.runtime import InternVL
from internvl_edge.runtime.inputs.questions import Question, read_questions
from tests.e2e.conftest import ONE_THREAD
from tests.e2e.test_serve_command import Server, serving
from tests.exports import Exports
from tests.tolerances import HANG_S

pytest.importorskip("uvicorn")
PATH = "/v1/chat/completions"
ASKED = 4
"""Number of questions of the example that are asked."""


@pytest.fixture(scope="module")
def bundle(exports: Exports, chat_example: Path) -> Path:
    return exports.bundle(chat_example / "checkpoint", dtype="fp32")


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(bundle, tmp_path_factory.mktemp("serve") / "log", "chat") as server:
        yield server


@pytest.fixture(scope="module")
def model(bundle: Path) -> Iterator[InternVL]:
    with InternVL.open(bundle, options=ONE_THREAD) as model:
        yield model


@pytest.fixture(scope="module")
def questions(chat_example: Path) -> list[Question]:
    found = read_questions(chat_example / "data" / "test.jsonl")
    return [question for question in found if not question.history and len(question.pictures) == 1][:ASKED]


@pytest.fixture(scope="module")
def pictures(chat_example: Path, questions: list[Question]) -> list[bytes]:
    with zipfile.ZipFile(chat_example / "data" / "test.zip") as archive:
        return [archive.read(Path(question.pictures[0].name).name) for question in questions]


def asked(question: Question, picture: bytes) -> dict[str, Any]:
    url = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    words = question.text.replace("<image>", "").strip()
    return {
        "role": "user",
        "content": [{"type": "text", "text": words}, {"type": "image_url", "image_url": {"url": url}}],
    }


def completion(server: Server, messages: list[Any], **fields: Any) -> dict[str, Any]:
    status, answer = server.ask(PATH, {"model": "internvl-chat", "messages": messages, **fields})
    assert status == 200, answer
    found: dict[str, Any] = json.loads(answer)
    return found


def chunks(raw: bytes) -> list[dict[str, Any]]:
    *events, end = [event.removeprefix(b"data: ") for event in raw.strip().split(b"\n\n")]
    assert end == b"[DONE]"
    return [json.loads(event) for event in events]


def test_answers_are_those_of_the_model(
    server: Server, model: InternVL, questions: list[Question], pictures: list[bytes]
) -> None:
    for question, picture in zip(questions, pictures, strict=True):
        expected = model.chat(question.text, [picture], max_new_tokens=1024)
        found = completion(server, [asked(question, picture)])
        assert found["choices"][0]["message"]["content"] == expected.text
        assert found["choices"][0]["finish_reason"] == expected.finish_reason
        assert found["usage"]["prompt_tokens"] == expected.prompt_tokens
        assert found["usage"]["completion_tokens"] == expected.completion_tokens


def test_a_stream_of_a_drawn_answer_is_that_of_the_model(
    server: Server, model: InternVL, questions: list[Question], pictures: list[bytes]
) -> None:
    settings = {"temperature": 1.5, "top_k": 0, "top_p": 0.9, "seed": 7}
    expected = model.chat(questions[0].text, [pictures[0]], do_sample=True, max_new_tokens=30, **settings)  # type: ignore[arg-type]
    fields = {**settings, "max_completion_tokens": 30, "stream": True, "stream_options": {"include_usage": True}}
    body = {"model": "internvl-chat", "messages": [asked(questions[0], pictures[0])], **fields}
    status, raw = server.ask(PATH, body)
    assert status == 200, raw
    *parts, usage = chunks(raw)
    assert "".join(part["choices"][0]["delta"].get("content", "") for part in parts) == expected.text
    assert usage["usage"]["completion_tokens"] == expected.completion_tokens


def test_a_conversation_goes_on_with_another_picture(
    server: Server, model: InternVL, questions: list[Question], pictures: list[bytes]
) -> None:
    first = model.chat(questions[0].text, [pictures[0]])
    second = model.chat(questions[1].text, [pictures[1]], history=first.history)
    answer = {"role": "assistant", "content": first.text}
    found = completion(server, [asked(questions[0], pictures[0]), answer, asked(questions[1], pictures[1])])
    assert found["choices"][0]["message"]["content"] == second.text
    assert found["usage"]["prompt_tokens"] == second.prompt_tokens


def test_log_probabilities_are_those_of_the_text(
    server: Server, questions: list[Question], pictures: list[bytes]
) -> None:
    messages = [asked(questions[0], pictures[0])]
    choice = completion(server, messages, logprobs=True, top_logprobs=2)["choices"][0]
    tokens = choice["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens).strip() == choice["message"]["content"]
    assert all(token["top_logprobs"][0]["token"] == token["token"] for token in tokens), "the answer is greedy"


@pytest.mark.parametrize("times", [1, 10])
def test_a_prompt_beyond_the_context_is_one_sentence_with_numbers(server: Server, model: InternVL, times: int) -> None:
    context = model.info.language.max_context if model.info.language is not None else 0
    body = {"model": "internvl-chat", "messages": [{"role": "user", "content": "why " * context * times}]}
    status, answer = server.ask(PATH, body)
    error = json.loads(answer)["error"]
    assert (status, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")
    assert str(context) in error["message"]


def test_a_client_that_leaves_holds_up_nobody(server: Server) -> None:
    body = {"model": "internvl-chat", "messages": [{"role": "user", "content": "Tell me all."}], "stream": True}
    drawn = {"temperature": 2, "top_k": 0, "seed": 1, "max_completion_tokens": 1000}
    connection = http.client.HTTPConnection("127.0.0.1", server.http, timeout=HANG_S)
    connection.request("POST", PATH, json.dumps({**body, **drawn}))
    assert connection.getresponse().read(20)
    connection.close()
    found = completion(server, [{"role": "user", "content": "Hello?"}], max_completion_tokens=1)
    assert found["usage"]["completion_tokens"] == 1
    while b"internvl_requests_under_way 1" not in server.ask("/metrics")[1]:
        pass


def test_answers_are_watched(server: Server) -> None:
    completion(server, [{"role": "user", "content": "Hello?"}], max_completion_tokens=2)
    status, text = server.ask("/metrics")
    assert status == 200
    assert b'internvl_first_token_seconds_count{model="chat"}' in text
    assert b'internvl_stage_seconds_count{model="chat",stage="compute"}' in text
    logged = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    assert any(line.get("completion_tokens") == 2 for line in logged)


def test_openai_s_client_talks_to_it(server: Server, questions: list[Question], pictures: list[bytes]) -> None:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.http}/v1", api_key="none", timeout=HANG_S) as client:
        messages: list[Any] = [asked(questions[0], pictures[0])]
        first = client.chat.completions.create(model="internvl-chat", messages=messages, temperature=0)
        messages += [first.choices[0].message, {"role": "user", "content": "What group is this?"}]
        parts = client.chat.completions.create(model="internvl-chat", messages=messages, stream=True)
        assert "".join(part.choices[0].delta.content or "" for part in parts)
