"""The body of a request for a chat completion: its settings, each honoured or refused by its name."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from internvl_edge.runtime.serve.protocol.binary_tensors import object_array
from internvl_edge.runtime.serve.protocol.checks import HALF_SURROGATE, quoted
from internvl_edge.runtime.serve.protocol.http.document.openai_schemas import CHAT_FIELDS
from internvl_edge.runtime.serve.protocol.http.infer import Asked
from internvl_edge.runtime.serve.protocol.http.openai.messages import Conversation, conversation
from internvl_edge.runtime.serve.protocol.openai_models import require_model
from internvl_edge.runtime.serve.refusals import BadRequestError
from internvl_edge.runtime.serve.requests import Parameter
from internvl_edge.runtime.serve.signature import AnswerLimits
from internvl_edge.runtime.tasks.generation.config import MOST_LOG_PROBABILITIES

_MOST_STOPS = 4
"""Most texts that end an answer, the same as OpenAI's limit."""
_LONGEST_STOP = 1024
_MOST_TOKENS = (1 << 31) - 1
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "reasoning_effort": ("none",),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "audio": (),
    "prediction": (),
    "verbosity": (),
    "web_search_options": (),
    "moderation": (),
}
"""Field of OpenAI's that is not offered -> its values, besides null, that ask for nothing."""
_WITHOUT_EFFECT = (
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "user",
)
"""Fields of OpenAI's that change no answer; any value is taken."""
_DRAWING = ("temperature", "top_p", "top_k", "min_p")
"""Fields of which each asks for tokens that are drawn at random."""


@dataclass(slots=True, kw_only=True)
class ChatRequest:
    """One request: a conversation, and how its answer is generated and sent."""

    model: str
    conversation: Conversation
    parameters: dict[str, Parameter]
    """Parameters of the served model."""
    tiles: Sequence[int] = ()
    """Most tiles of each picture; empty for the model's own."""
    stop: Sequence[str] = ()
    stream: bool = False
    include_usage: bool = False
    """Whether a streamed answer ends with its numbers of tokens."""

    @property
    def draws(self) -> bool:
        """Return whether tokens are drawn at random."""
        return bool(self.parameters.get("temperature"))

    def asked(self, identifier: str) -> Asked:
        """Return the request in terms of the served model."""
        inputs = self.conversation.inputs()
        if self.tiles:
            inputs["image_tiles"] = np.array(self.tiles, np.int64)
        if self.stop:
            inputs["stop"] = object_array([text.encode() for text in self.stop], (len(self.stop),))
        return Asked(inputs=inputs, parameters=self.parameters, id=identifier)


@dataclass(slots=True)
class _Fields:
    """The body with typed access to its fields; null counts as absent."""

    content: Mapping[str, Any]

    def number(self, name: str, least: float, most: float) -> float | None:
        """Return a number between two limits, or None."""
        value = self.content.get(name)
        if value is None:
            return None
        if type(value) not in (int, float) or not (math.isfinite(value) and least <= value <= most):
            raise _refused(name, f"is {quoted(value)} instead of a number from {least:g} to {most:g}")
        return float(value)

    def whole(self, name: str, least: int, most: int, remedy: str = "") -> int | None:
        """Return a whole number between two limits, or None."""
        value = self.content.get(name)
        if value is None:
            return None
        if type(value) is not int or not least <= value <= most:
            raise _refused(name, f"is {quoted(value)} instead of a whole number from {least} to {most}{remedy}")
        return value

    def flag(self, name: str, place: str = "") -> bool:
        """Return whether a field is true."""
        value = self.content.get(name)
        if value is not None and not isinstance(value, bool):
            raise _refused(f"{place}{name}", "is true or false")
        return bool(value)


def wanted(content: Mapping[str, Any], models: Sequence[str], limits: AnswerLimits, picture_bytes: int) -> ChatRequest:
    """Return the request of a body.

    Args:
        content: The JSON object of the body.
        models: Names of the models that are offered.
        limits: Limits of the served model.
        picture_bytes: Largest file of one picture.

    Raises:
        RefusalError: A field is not known, not offered or has a wrong value; the error names it.
    """
    model = require_model(content.get("model"), models)
    _require_offered(content)
    fields = _Fields(content)
    said = conversation(content.get("messages"), limits, picture_bytes)
    stream = fields.flag("stream")
    return ChatRequest(
        model=model,
        conversation=said,
        parameters={
            **_sampling(fields),
            **_lengths(fields, limits),
            **_log_probabilities(fields),
        },
        tiles=_tiles(fields, said, limits),
        stop=_stops(content.get("stop")),
        stream=stream,
        include_usage=_include_usage(content.get("stream_options"), stream),
    )


def _require_offered(content: Mapping[str, Any]) -> None:
    """Check that no field asks for what is not offered."""
    for name, value in content.items():
        if name in CHAT_FIELDS or name in _WITHOUT_EFFECT or (value is None and name in _NEUTRAL):
            continue
        if name not in _NEUTRAL:
            known = ", ".join(CHAT_FIELDS)
            raise BadRequestError(
                f"field {quoted(name)} is not known here; there are {known}",
                param=name if name.isidentifier() else quoted(name),
                code="unknown_parameter",
            )
        if not any(_is_same(value, each) for each in _NEUTRAL[name]):
            instead = "".join(f" or give {each!r}" for each in _NEUTRAL[name][:1])
            raise _refused(name, f"{quoted(value)} is not offered here; leave it out{instead}", "unsupported_value")


def _is_same(value: Any, other: Any) -> bool:
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def _sampling(fields: _Fields) -> dict[str, Parameter]:
    """Return the parameters of the drawing: without any of them an answer is greedy."""
    given: dict[str, Parameter | None] = {
        "temperature": fields.number("temperature", 0, 2),
        "top_p": fields.number("top_p", 0, 1),
        "top_k": fields.whole("top_k", 0, _MOST_TOKENS),
        "min_p": fields.number("min_p", 0, 1),
        "repetition_penalty": fields.number("repetition_penalty", 0.01, 100),
        "seed": fields.whole("seed", -(1 << 63), (1 << 63) - 1),
    }
    found = {name: value for name, value in given.items() if value is not None}
    if "temperature" not in found and any(name in found for name in _DRAWING):
        found["temperature"] = 1.0
    if isinstance(seed := found.get("seed"), int):
        found["seed"] = seed % (1 << 63)  # the served model takes none below 0
    return found


def _lengths(fields: _Fields, limits: AnswerLimits) -> dict[str, Parameter]:
    """Return the most tokens of the answer: only the server's own limit refuses more, the context ends an answer."""
    limited = limits.new_tokens < limits.context
    most = limits.new_tokens if limited else _MOST_TOKENS
    remedy = "; serve with a larger --max-answer-tokens for more" if limited else ""
    names = ("max_completion_tokens", "max_tokens")
    given = [value for name in names if (value := fields.whole(name, 1, most, remedy)) is not None]
    if len(set(given)) > 1:
        raise _refused("max_tokens", f"is {given[1]} and max_completion_tokens {given[0]}; give one of them")
    return {"max_new_tokens": min(given[0], limits.new_tokens)} if given else {}


def _tiles(fields: _Fields, said: Conversation, limits: AnswerLimits) -> Sequence[int]:
    """Return the most tiles of each picture, of which one of low detail has one; nothing where the model's own hold."""
    most = fields.whole("max_tiles", 1, max(limits.tiles, 1))
    if most is None and "low" not in said.details:
        return ()
    return [1 if detail == "low" else most or limits.tiles for detail in said.details]


def _log_probabilities(fields: _Fields) -> dict[str, Parameter]:
    alternatives = fields.whole("top_logprobs", 0, MOST_LOG_PROBABILITIES)
    if fields.flag("logprobs"):
        return {"logprobs": alternatives or 0}
    if alternatives:
        raise _refused("top_logprobs", "goes with logprobs true")
    return {}


def _stops(given: Any) -> Sequence[str]:
    stops = [] if given is None else [given] if isinstance(given, str) else given
    if not isinstance(stops, list) or not all(isinstance(text, str) for text in stops):
        raise _refused("stop", "is a text or a list of texts")
    if len(stops) > _MOST_STOPS:
        raise _refused("stop", f"{len(stops)} texts, at most {_MOST_STOPS} are taken")
    if not all(0 < len(text) <= _LONGEST_STOP for text in stops):
        raise _refused("stop", f"a text is empty or longer than {_LONGEST_STOP} characters")
    try:
        "".join(stops).encode()
    except UnicodeEncodeError as error:
        raise _refused("stop", HALF_SURROGATE) from error
    return stops


def _include_usage(options: Any, stream: bool) -> bool:
    if options is None:
        return False
    if not isinstance(options, dict) or not stream:
        raise _refused("stream_options", "is an object and goes with stream true")
    if unknown := sorted(set(options) - {"include_usage", "include_obfuscation"}):
        raise _refused(f"stream_options.{unknown[0]}", "is not known here; there is include_usage")
    fields = _Fields(options)
    if fields.flag("include_obfuscation", "stream_options."):
        raise _refused("stream_options.include_obfuscation", "is not offered here; leave it out")
    return fields.flag("include_usage", "stream_options.")


def _refused(field_name: str, finding: str, code: str = "invalid_value") -> BadRequestError:
    return BadRequestError(f"{field_name} {finding}", param=field_name, code=code)
