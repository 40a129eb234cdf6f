"""An answer in OpenAI's form: as a whole, and as chunks with role, text, reason and usage."""

from typing import Any

import numpy as np
import pytest

from internvl_edge.runtime.serve.protocol.http.openai.chat_answer import ChatAnswer
from internvl_edge.runtime.serve.protocol.http.openai.chat_request import wanted
from internvl_edge.runtime.serve.requests import Response
from tests.unit.runtime.serve.chat_model import LIMITS

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def answer(**fields: Any) -> ChatAnswer:
    body = {"model": "internvl-chat", "messages": [{"role": "user", "content": "Hello"}], **fields}
    return ChatAnswer(wanted(body, ("internvl-chat",), LIMITS, 1), created=5)


def part(text: str, *, final: bool = False, **more: bytes) -> Response:
    outputs = {name: np.array([value, None], np.object_)[:1] for name, value in {"text": text.encode(), **more}.items()}
    if final:
        outputs["finish_reason"] = np.array([b"length", None], np.object_)[:1]
        outputs |= {"prompt_tokens": np.array([7]), "completion_tokens": np.array([3])}
    return Response(outputs=outputs, final=final)


def test_a_whole_answer() -> None:
    made = answer()
    assert made.id.startswith("chatcmpl-")
    assert made.whole(part("a kite", final=True)) == {
        "id": made.id,
        "object": "chat.completion",
        "created": 5,
        "model": "internvl-chat",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "a kite", "refusal": None},
                "logprobs": None,
                "finish_reason": "length",
            }
        ],
        "usage": USAGE,
    }


@pytest.mark.parametrize("usage", [False, True])
def test_chunks_are_role_texts_reason_and_usage(usage: bool) -> None:
    made = answer(stream=True, stream_options={"include_usage": usage})
    parts = [part("a"), part(""), part(" kite"), part("", final=True)]
    chunks = [chunk for each in parts for chunk in made.chunks(each)]
    assert {(chunk["id"], chunk["object"]) for chunk in chunks} == {(made.id, "chat.completion.chunk")}
    last = chunks.pop() if usage else None
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": "a"},
        {"content": " kite"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "length"]
    assert [("usage" in chunk) for chunk in chunks] == [usage] * 4
    if last is not None:
        assert (last["choices"], last["usage"]) == ([], USAGE)


def test_an_answer_of_one_part_begins_and_ends_in_it() -> None:
    (role, text, end) = answer(stream=True).chunks(part("a kite", final=True))
    assert role["choices"][0]["delta"]["role"] == "assistant"
    assert text["choices"][0]["delta"] == {"content": "a kite"}
    assert end["choices"][0]["finish_reason"] == "length"


def test_log_probabilities_come_with_the_end() -> None:
    likely = b'[{"token": "a", "logprob": -1.5, "bytes": [97], "top_logprobs": []}]'
    content = [{"token": "a", "logprob": -1.5, "bytes": [97], "top_logprobs": []}]
    whole = answer(logprobs=True).whole(part("a", final=True, logprobs=likely))
    assert whole["choices"][0]["logprobs"]["content"] == content
    *_, end = answer(logprobs=True, stream=True).chunks(part("a", final=True, logprobs=likely))
    assert end["choices"][0]["logprobs"]["content"] == content
