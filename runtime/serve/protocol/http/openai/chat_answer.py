"""The answer of a chat model in OpenAI's form, whole or in chunks."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

from internvl_edge.runtime.serve.protocol.http.openai.chat_request import ChatRequest
from internvl_edge.runtime.serve.requests import Response

END = b"[DONE]"
"""Data of the event that follows the last chunk."""


class ChatAnswer:
    """The answer to one request, with an identifier of its own."""

    def __init__(self, request: ChatRequest, created: int) -> None:
        self._request = request
        self._created = created
        self._begun = False
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        """Identifier of the answer."""

    def whole(self, response: Response) -> dict[str, Any]:
        """Return the whole answer."""
        message = {"role": "assistant", "content": _text(response, "text"), "refusal": None}
        return {
            **self._head("chat.completion"),
            "choices": [{**_choice(_text(response, "finish_reason"), message=message), **_logprobs(response)}],
            "usage": _usage(response),
        }

    def chunks(self, part: Response) -> Iterator[dict[str, Any]]:
        """Yield the chunks of one part: first the role, then its text, and at the end the reason and the usage."""
        if not self._begun:
            self._begun = True
            yield self._chunk([_choice(None, delta={"role": "assistant", "content": ""})])
        if text := _text(part, "text"):
            yield self._chunk([_choice(None, delta={"content": text})])
        if part.final:
            yield self._chunk([{**_choice(_text(part, "finish_reason"), delta={}), **_logprobs(part)}])
            if self._request.include_usage:
                yield {**self._chunk([]), "usage": _usage(part)}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        usage = {"usage": None} if self._request.include_usage else {}
        return {**self._head("chat.completion.chunk"), "choices": choices, **usage}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self._created, "model": self._request.model}


def _choice(finish_reason: str | None, **content: Any) -> dict[str, Any]:
    return {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}


def _logprobs(response: Response) -> dict[str, Any]:
    """Return the log-probabilities of an answer's tokens, if they were asked for."""
    if "logprobs" not in response.outputs:
        return {}
    return {"logprobs": {"content": json.loads(_text(response, "logprobs")), "refusal": None}}


def _text(response: Response, output: str) -> str:
    text: str = response.outputs[output].item().decode()
    return text


def _usage(response: Response) -> dict[str, int]:
    prompt, completion = (int(response.outputs[f"{kind}_tokens"].item()) for kind in ("prompt", "completion"))
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
