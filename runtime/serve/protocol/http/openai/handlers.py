"""The handlers of OpenAI's paths: embeddings, chat completions, and the models that these offer."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np
from starlette.types import ASGIApp

from internvl_edge.runtime.serve.models import CHAT, ENCODE_IMAGE, ENCODE_TEXT
from internvl_edge.runtime.serve.protocol.http.body import json_object
from internvl_edge.runtime.serve.protocol.http.call import Call
from internvl_edge.runtime.serve.protocol.http.events import EventStream
from internvl_edge.runtime.serve.protocol.http.openai import chat_request, embeddings
from internvl_edge.runtime.serve.protocol.http.openai.chat_answer import END, ChatAnswer
from internvl_edge.runtime.serve.protocol.http.responses import json_response, openai_error
from internvl_edge.runtime.serve.protocol.openai_models import (
    chat_models,
    embedding_models,
    model_entry,
    openai_models,
)
from internvl_edge.runtime.serve.protocol.service import refusal_of
from internvl_edge.runtime.serve.refusals import TooLargeError, UnknownModelError

_COUNTED_AT_ONCE = 16 << 10
"""Most characters whose tokens are counted on the event loop, in at most 2 ms; more are counted in a thread."""
_READ_AT_ONCE = 256 << 10
"""Most bytes of a conversation that are read on the event loop, in about 2 ms; more are read in a thread."""
_MOST_ELEMENTS = 1 << 18
"""Most lists, objects and commas of a long body: its parser takes about 0.1 s for them."""
_SEED_BITS = 62


async def _embeddings(call: Call) -> ASGIApp:
    signatures = call.service.engine.signatures
    wanted = embeddings.wanted(await call.json(), embedding_models(signatures), _width(call))
    rows: dict[int, np.ndarray] = {}
    embeddings.require_graphs(wanted, signatures)
    for part in wanted.parts():
        rows.update(zip(part.places, await call.infer_rows(part.model, part.inputs, part.parameters), strict=True))
    texts = [text.decode() for text in wanted.texts.values()]
    if sum(map(len, texts)) <= _COUNTED_AT_ONCE:
        tokens = call.service.count_tokens(texts)
    else:
        tokens = await asyncio.to_thread(call.service.count_tokens, texts)
    return json_response(embeddings.answer(wanted, rows, tokens))


async def _chat(call: Call) -> ASGIApp:
    signatures, options = call.service.engine.signatures, call.service.options
    if signatures and CHAT not in signatures:
        raise UnknownModelError("this server has no chat model; serve a bundle with a language model", param="model")
    signature = call.service.model(call.exchange, CHAT)
    assert signature.answers is not None
    call.service.require_room(call.exchange)
    raw, limits = await call.body.read(), signature.answers

    def read() -> chat_request.ChatRequest:
        _require_few_elements(raw, options.json_bytes)
        content = json_object(raw, options.body_bytes)
        return chat_request.wanted(content, chat_models(signatures), limits, options.picture_bytes)

    wanted = read() if len(raw) <= _READ_AT_ONCE else await asyncio.to_thread(read)
    if wanted.draws and "seed" not in wanted.parameters:  # so that an answer can be taken up again by another worker
        wanted.parameters["seed"] = random.getrandbits(_SEED_BITS)
    answer = ChatAnswer(wanted, int(time.time()))
    request = call.request(signature, wanted.asked(answer.id))
    if not wanted.stream:
        return json_response(answer.whole(await call.infer(request)))

    def refused(error: Exception) -> dict[str, Any]:
        return openai_error(refusal_of(error, call.exchange))

    return EventStream(call.service.stream(call.exchange, request), answer.chunks, refused, END)


def _require_few_elements(raw: bytes, limit: int) -> None:
    """Check that JSON beyond the usual limit is long because of its texts, such as pictures, which are parsed fast.

    Raises:
        TooLargeError: It has many elements.
    """
    if len(raw) > limit and sum(map(raw.count, (b"[", b"{", b","))) > _MOST_ELEMENTS:
        raise TooLargeError(f"the JSON has more than {_MOST_ELEMENTS} elements; send fewer, or shorter texts")


async def _models(call: Call) -> ASGIApp:
    models = openai_models(call.service.engine.signatures)
    return json_response({"object": "list", "data": [model_entry(name, models) for name in models]})


async def _model_entry(call: Call) -> ASGIApp:
    models = openai_models(call.service.engine.signatures)
    return json_response(model_entry(call.http.path_params["model"], models))


def _width(call: Call) -> int:
    """Return the number of values of an embedding, or -1 if no encoder is served."""
    signatures = call.service.engine.signatures
    found = [signatures[name].outputs[0].shape[-1] for name in (ENCODE_TEXT, ENCODE_IMAGE) if name in signatures]
    return found[0] if found else -1


OPENAI_HANDLERS: Mapping[str, Callable[[Call], Awaitable[ASGIApp]]] = {
    "embeddings": _embeddings,
    "chat": _chat,
    "models": _models,
    "model_entry": _model_entry,
}
"""Name of a handler of OpenAI's paths in the table of routes -> the handler."""
