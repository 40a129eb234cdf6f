"""OpenAI's own client, unmodified, against this server: chat completions, streams, errors and models."""

from collections.abc import Iterator
from typing import Any

import pytest

from internvl_edge.runtime.serve.protocol.credentials import Credentials
from internvl_edge.runtime.serve.protocol.service import Service
from tests.tolerances import HANG_S
from tests.unit.runtime.serve.fake_engine import WORDS, FakeEngine, served
from tests.unit.runtime.serve.protocol.http.openai.test_messages import picture, text, user

openai = pytest.importorskip("openai")
MODEL = "internvl-chat"
ANSWER = "".join(WORDS)


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with (
        served(Service(FakeEngine(), credentials=Credentials(["secret"]))) as places,
        openai.OpenAI(
            base_url=f"http://{places.http_url}/v1", api_key="secret", timeout=HANG_S, max_retries=0
        ) as client,
    ):
        yield client


def test_a_conversation_goes_on_with_the_answer_as_it_came(client: Any) -> None:
    messages: list[Any] = [{"role": "system", "content": "Be brief."}, user(picture(), text("What is it?"))]
    first = client.chat.completions.create(model=MODEL, messages=messages, max_completion_tokens=20, temperature=0)
    assert first.choices[0].message.content == ANSWER
    assert first.choices[0].finish_reason == "stop"
    assert (first.usage.prompt_tokens, first.usage.completion_tokens, first.usage.total_tokens) == (7, 3, 10)
    messages += [first.choices[0].message, user("And the colour?")]
    second = client.chat.completions.create(model=MODEL, messages=messages, stop=["\n"], seed=1, top_p=0.5, n=1)
    assert second.choices[0].message.content == ANSWER


def test_a_stream(client: Any) -> None:
    usage = None
    pieces, reasons = [], []
    for chunk in client.chat.completions.create(
        model=MODEL, messages=[user("Hello")], stream=True, stream_options={"include_usage": True}
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            pieces.append(choice.delta.content or "")
            reasons.append(choice.finish_reason)
    assert "".join(pieces) == ANSWER
    assert reasons[-1] == "stop"
    assert usage is not None
    assert usage.completion_tokens == 3


def test_the_client_s_own_helper_puts_a_stream_together(client: Any) -> None:
    with client.chat.completions.stream(model=MODEL, messages=[user("Hello")]) as stream:
        texts = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(texts) == final.choices[0].message.content == ANSWER


def test_log_probabilities(client: Any) -> None:
    found = client.chat.completions.create(model=MODEL, messages=[user("Hello")], logprobs=True, top_logprobs=2)
    assert [token.token for token in found.choices[0].logprobs.content] == list(WORDS)
    chunks = list(client.chat.completions.create(model=MODEL, messages=[user("Hello")], logprobs=True, stream=True))
    assert [token.logprob for token in chunks[-1].choices[0].logprobs.content] == [-0.5] * len(WORDS)


def test_errors_are_those_of_the_client(client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=[user("Hello")], presence_penalty=1)
    assert (caught.value.param, caught.value.code) == ("presence_penalty", "unsupported_value")
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=[user("Hello")], tools=[{"type": "function"}])
    assert caught.value.param == "tools"
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-4o", messages=[user("Hello")])
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="other").models.list()
    with pytest.raises(openai.APIError, match="the model fails"):
        list(client.chat.completions.create(model=MODEL, messages=[user("broken")], stream=True))


def test_fields_of_this_server_go_in_the_extra_body(client: Any) -> None:
    extra = {"top_k": 5, "repetition_penalty": 1.1}
    found = client.chat.completions.create(model=MODEL, messages=[user("Hello")], extra_body=extra)
    assert found.choices[0].message.content == ANSWER


def test_models_and_embeddings(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["internvl-c", "internvl-g", MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    assert len(client.embeddings.create(model="internvl-c", input=["a red kite"]).data) == 1
