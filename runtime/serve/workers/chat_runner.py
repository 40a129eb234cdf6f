"""Answer one request to a chat model in a worker, piece by piece."""

import json
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from internvl_edge.runtime.model import InternVL
from internvl_edge.runtime.monitor import Monitor
from internvl_edge.runtime.serve.options import ANSWER_TOKENS
from internvl_edge.runtime.serve.requests import Parameter
from internvl_edge.runtime.serve.workers.messages import Arrays, Job, Piece
from internvl_edge.runtime.tasks.chat.chat import ChatReply
from internvl_edge.runtime.tasks.chat.history import with_marks
from internvl_edge.runtime.tasks.chat.templates import MARK

_UNDECODED = "\ufffd"
"""Character that stands for bytes which are no character."""


@dataclass(frozen=True, slots=True)
class _SentPicture:
    """A picture of a request; pictures are decoded one after the other, when they are needed."""

    name: str
    file: bytes

    def content(self) -> bytes:
        return self.file


def chat_steps(
    model: InternVL, job: Job, cancelled: Callable[[], bool], monitor: Monitor
) -> Generator[Piece | Arrays, None, None]:
    """Yield the pieces of an answer as they are generated, and at last the outputs.

    Raises:
        InputError: The request does not fit the model, or its context.
    """
    (inputs,) = job.parts
    *history, question = _turns(inputs, official=model.info.chat is not None and model.info.chat.layout == "official")
    stream = model.chat_stream(
        question[0],
        [_SentPicture(f"image {index}", file) for index, file in enumerate(inputs.get("image", ()))],
        history=history or None,
        system=_texts(inputs["system"])[0] if "system" in inputs else None,
        stop=_texts(inputs["stop"]) if "stop" in inputs else (),
        cancelled=cancelled,
        monitor=monitor,
        **_settings(job.parameters, inputs),
    )
    with closing(stream):
        for text in stream:
            yield Piece(job.id, 0, 0, text)
    reply = stream.reply
    outputs = {
        "text": np.array([reply.text.encode()], np.object_),
        "finish_reason": np.array([reply.finish_reason.encode()], np.object_),
        "prompt_tokens": np.array([reply.prompt_tokens], np.int64),
        "completion_tokens": np.array([reply.completion_tokens], np.int64),
    }
    if reply.log_probabilities:
        outputs["logprobs"] = np.array([json.dumps(_log_probabilities(model, reply)).encode()], np.object_)
    yield outputs


def _turns(inputs: Arrays, official: bool) -> list[tuple[str, str]]:
    """Return the questions with their answers, and at last the question without one.

    Questions have the marks of their pictures: where `image_turns` says whose the pictures are, those of a question
    without marks come first in it, numbered as the model cards do.
    """
    asked = [_texts(turn) for turn in inputs.get("history", ())]
    turns = [*((question, answer) for question, answer in asked), (_texts(inputs["question"])[0], "")]
    if "image_turns" not in inputs:
        return turns
    counts = np.bincount(inputs["image_turns"], minlength=len(turns)).tolist()
    marked, before = [], 0
    for (question, answer), count in zip(turns, counts, strict=True):
        if MARK not in question:
            question = with_marks(question, count, numbered_from=before + 1 if official else None)
        marked.append((question, answer))
        before += count
    return marked


def _settings(parameters: Mapping[str, Parameter], inputs: Arrays) -> dict[str, Any]:
    """Return the arguments of `chat_stream` for the parameters of a request."""
    values: dict[str, Any] = dict(parameters)
    temperature, seed, alternatives = (values.pop(name) for name in ("temperature", "seed", "logprobs"))
    values["max_new_tokens"] = values["max_new_tokens"] or ANSWER_TOKENS
    if temperature:
        values |= {"do_sample": True, "temperature": temperature, "seed": None if seed < 0 else seed}
    if alternatives >= 0:
        values["log_probabilities"] = alternatives
    if "image_tiles" in inputs:
        values["max_tiles"] = inputs["image_tiles"].tolist()
    return values


def _log_probabilities(model: InternVL, reply: ChatReply) -> list[dict[str, Any]]:
    """Return the log-probabilities of an answer's tokens, in the form of OpenAI's chat completions.

    The token that ended the answer is none of its text and left out.
    """
    found: list[dict[str, Any]] = []
    for token, step in zip(reply.ids, reply.log_probabilities, strict=True):
        if model.info.chat is not None and token in model.info.chat.stop_token_ids:
            return found
        alternatives = zip(step.ids[0].tolist(), step.values[0].tolist(), strict=True)
        top = [_token(model, other, value) for other, value in alternatives]
        found.append({**_token(model, token, float(step.chosen[0])), "top_logprobs": top})
    return found


def _token(model: InternVL, token: int, value: float) -> dict[str, Any]:
    text = model.chat_tokenizer.decode([token], skip_special=False)
    exact = None if _UNDECODED in text else list(text.encode())
    return {"token": text, "logprob": max(value, -9999.0), "bytes": exact}


def _texts(values: np.ndarray) -> list[str]:
    return [value.decode() for value in values]
