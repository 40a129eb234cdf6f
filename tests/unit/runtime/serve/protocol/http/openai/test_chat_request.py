"""Settings of a chat completion: each reaches the served model, or is refused by its name."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_edge.runtime.serve.options import ServeOptions
from internvl_edge.runtime.serve.protocol.checks import quoted
from internvl_edge.runtime.serve.protocol.http.document.openai_schemas import CHAT_FIELDS
from internvl_edge.runtime.serve.protocol.http.openai.chat_request import ChatRequest, wanted
from internvl_edge.runtime.serve.refusals import BadRequestError, RefusalError, UnknownModelError
from internvl_edge.runtime.serve.requests import Request
from internvl_edge.runtime.serve.signature import AnswerLimits
from internvl_edge.runtime.serve.validation import validated_request
from tests.unit.runtime.serve.chat_model import LIMITS, TILES, chat_manifest, chat_model
from tests.unit.runtime.serve.protocol.http.openai.test_messages import picture, text, user

MODEL = "internvl-chat"


def read(limits: AnswerLimits = LIMITS, **fields: Any) -> ChatRequest:
    body = {"model": MODEL, "messages": [user("Hello")], **fields}
    return wanted(body, (MODEL,), limits, 1 << 20)


def parameters(**fields: Any) -> dict[str, Any]:
    return read(**fields).parameters


def tiles(*details: str, **fields: Any) -> Any:
    asked = read(messages=[user(*(picture(detail=detail) for detail in details), text("What?"))], **fields).asked("x")
    return asked.inputs["image_tiles"].tolist() if "image_tiles" in asked.inputs else None


def refusal(**fields: Any) -> BadRequestError:
    with pytest.raises(BadRequestError) as caught:
        read(**fields)
    return caught.value


def test_without_settings_an_answer_is_greedy_and_whole() -> None:
    found = read()
    assert found.parameters == {}
    assert (found.draws, found.stream, found.include_usage, found.stop) == (False, False, False, [])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"temperature": 0.7}, {"temperature": 0.7}),
        ({"top_p": 0.9}, {"temperature": 1.0, "top_p": 0.9}),
        ({"top_k": 5}, {"temperature": 1.0, "top_k": 5}),
        ({"min_p": 0.1}, {"temperature": 1.0, "min_p": 0.1}),
        ({"temperature": 0, "top_p": 0.9}, {"temperature": 0.0, "top_p": 0.9}),
        ({"seed": 7}, {"seed": 7}),
        ({"seed": -1}, {"seed": (1 << 63) - 1}),
        ({"repetition_penalty": 1.1}, {"repetition_penalty": 1.1}),
        ({"max_tokens": 9}, {"max_new_tokens": 9}),
        ({"max_completion_tokens": 9}, {"max_new_tokens": 9}),
        ({"max_completion_tokens": 100_000}, {"max_new_tokens": 100}),
        ({"max_completion_tokens": 9, "max_tokens": 9}, {"max_new_tokens": 9}),
        ({"logprobs": True}, {"logprobs": 0}),
        ({"logprobs": True, "top_logprobs": 3}, {"logprobs": 3}),
        ({"logprobs": False, "top_logprobs": None}, {}),
        ({"temperature": None, "stop": None, "max_tokens": None, "n": None, "tools": None, "stream": None}, {}),
        ({"max_tiles": 2}, {}),
    ],
)
def test_settings_are_parameters_of_the_model(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert parameters(**fields) == expected


def test_pictures_have_the_tiles_that_are_asked_for() -> None:
    assert tiles("auto", "high") is None
    assert tiles("auto", "high", max_tiles=3) == [3, 3]
    assert tiles("low", "low") == [1, 1]
    assert tiles("low", "high", "auto") == [1, TILES, TILES]
    assert tiles("high", "low", max_tiles=2) == [2, 1]
    assert read(max_tiles=2).asked("x").inputs.keys() == {"question"}


def test_stops_are_one_text_or_up_to_four() -> None:
    assert read(stop="\n").stop == ["\n"]
    found = read(stop=["a", "b", "c", "d"])
    assert found.asked("x").inputs["stop"].tolist() == [b"a", b"b", b"c", b"d"]
    assert read(stop=[]).asked("x").inputs.keys() == {"question"}


def test_usage_goes_with_a_stream() -> None:
    found = read(stream=True, stream_options={"include_usage": True, "include_obfuscation": False})
    assert (found.stream, found.include_usage) == (True, True)
    assert not read(stream=True, stream_options={}).include_usage
    assert refusal(stream_options={"include_usage": True}).param == "stream_options"


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}},
        {"tools": [], "tool_choice": "none", "parallel_tool_calls": True, "functions": []},
        {"response_format": {"type": "text"}, "modalities": ["text"], "store": False, "service_tier": "auto"},
        {"user": "ann", "metadata": {"a": "b"}, "safety_identifier": "x", "prompt_cache_key": "y"},
    ],
)
def test_fields_that_ask_for_nothing_are_taken(fields: dict[str, Any]) -> None:
    assert parameters(**fields) == {}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"n": True}, "n"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"frequency_penalty": -1}, "frequency_penalty"),
        ({"frequency_penalty": False}, "frequency_penalty"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"functions": [{}]}, "functions"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"audio": {}}, "audio"),
        ({"prediction": {}}, "prediction"),
        ({"verbosity": "low"}, "verbosity"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"store": True}, "store"),
        ({"guided_json": {}}, "guided_json"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"seed": 1.5}, "seed"),
        ({"seed": 1 << 63}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 1 << 31}, "max_completion_tokens"),
        ({"max_completion_tokens": 5, "max_tokens": 6}, "max_tokens"),
        ({"logprobs": 1}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"max_tiles": 7}, "max_tiles"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"stop": 7}, "stop"),
        ({"stop": "\ud800"}, "stop"),
        ({"stop": "x" * 2000}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream": True, "stream_options": []}, "stream_options"),
        ({"stream": True, "stream_options": {"every": 1}}, "stream_options.every"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
    ],
)
def test_what_is_not_offered_is_refused_by_its_name(fields: dict[str, Any], param: str) -> None:
    error = refusal(**fields)
    assert error.param == param
    assert error.code in ("invalid_value", "unsupported_value", "unknown_parameter")
    assert str(error).startswith((param, f"field '{param}'"))
    assert "\n" not in str(error)


def test_messages_have_numbers_and_remedies() -> None:
    assert str(refusal(n=2)) == "n 2 is not offered here; leave it out or give 1"
    few = AnswerLimits(new_tokens=20, context=100, tile_tokens=9, tiles=6)
    assert "from 1 to 20; serve with a larger --max-answer-tokens" in str(refusal(limits=few, max_tokens=21))
    with pytest.raises(UnknownModelError, match="model 'gpt-4o' is not served here; there are internvl-chat") as caught:
        read(model="gpt-4o")
    assert (caught.value.param, caught.value.code) == ("model", "model_not_found")


def read_or_refused(content: Any) -> ChatRequest | RefusalError:
    try:
        return wanted(content, (MODEL,), LIMITS, 1 << 20)
    except RefusalError as error:
        return error


_VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9)
_ANY = _VALUES | st.lists(_VALUES, max_size=5) | st.dictionaries(st.text(max_size=9), _VALUES, max_size=2)


_NAMES = st.sampled_from([*CHAT_FIELDS, "n", "tools", "store", "logit_bias"]) | st.text(max_size=9)


@given(st.dictionaries(_NAMES, _ANY))
def test_any_body_is_refused_by_a_name_or_fits_the_served_model(fields: dict[str, Any]) -> None:
    served = chat_model()
    body = {"model": MODEL, "messages": [user(picture(), text("Hello"))], **json.loads(json.dumps(fields))}
    found = read_or_refused(body)
    if isinstance(found, RefusalError):
        assert found.param is not None
        assert "\n" not in str(found)
        names = {*fields, *map(quoted, fields), "messages"}
        assert any(found.param.startswith(name) for name in names)
        return
    asked = found.asked("x")
    request = Request(model="chat", inputs=asked.inputs, parameters=asked.parameters)
    checked = validated_request(request, served, chat_manifest().model, ServeOptions())
    assert set(served.parameters(checked)) == set(served.choices)
    assert all(values.size and isinstance(values, np.ndarray) for values in checked.inputs.values())
