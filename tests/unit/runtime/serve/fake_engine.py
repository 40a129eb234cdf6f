"""An engine without a model, whose answers tests know, and a server of it on free ports."""

import asyncio
import itertools
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from internvl_edge.runtime.bundle.manifest import ModelInfo, VisionInfo
from internvl_edge.runtime.serve.models import Choice, ServedModel
from internvl_edge.runtime.serve.options import ServeOptions
from internvl_edge.runtime.serve.protocol.service import Service
from internvl_edge.runtime.serve.refusals import BadRequestError, FailedError, OverloadedError
from internvl_edge.runtime.serve.requests import Request, Response
from internvl_edge.runtime.serve.server import Listeners, ServerOptions
from internvl_edge.runtime.serve.signature import DATATYPES, Signature, Tensor
from internvl_edge.runtime.serve.validation import validated_request
from tests.tolerances import HANG_S
from tests.unit.runtime.serve.chat_model import chat_model

WORDS = ("a", " red", " kite")
LIKELY = [{"token": word, "logprob": -0.5, "bytes": list(word.encode()), "top_logprobs": []} for word in WORDS]
"""Log-probabilities of an answer, as the chat model gives them."""
WIDTH = 4
_INFO = ModelInfo(layout="internvl", vision=VisionInfo(image_size=8, patch_size=2, hidden_size=4, tokens=17))


class FakeEngine:
    """Models: `echo` takes and gives every type, `caption` streams, and the others are named by their fate."""

    def __init__(self) -> None:
        self.ready = True
        self.cancelled = threading.Event()
        self.streams_closed = threading.Event()
        self.finish = asyncio.Event()
        self.seen: list[Request] = []
        self.models = {model.signature.name: model for model in _models()}

    @property
    def signatures(self) -> Mapping[str, Signature]:
        return {name: model.signature for name, model in self.models.items()}

    def require_room(self, model: str, client: str, coming: Mapping[str, int] = MappingProxyType({})) -> bool:
        if model == "crowded":
            raise OverloadedError("there is no room", 1.5)
        return True

    async def infer(self, request: Request) -> Response:
        request = validated_request(request, self.models[request.model], _INFO, ServeOptions())
        self.seen.append(request)
        if request.model == "full":
            raise OverloadedError("the queue is full", 1.5)
        if request.model == "broken":
            raise RuntimeError("/secret/path is not there")
        if request.model == "slow" or _question(request) == b"slow":
            await self._slow()
        if _question(request) == b"broken":
            raise FailedError("chat: the model fails on this input")
        return Response(outputs=_outputs(request), first_at=time.monotonic())

    async def stream(self, request: Request) -> AsyncIterator[Response]:
        if request.model == "chat":
            async for part in self._answered(request):
                yield part
            return
        if request.model != "caption":
            yield await self.infer(request)
            return
        request = validated_request(request, self.models[request.model], _INFO, ServeOptions())
        self.seen.append(request)
        rows = len(request.inputs["image"])
        try:
            for index, word in enumerate(WORDS):
                await asyncio.sleep(0.005)
                if request.parameters.get("max_new_tokens") == index:
                    raise OverloadedError("no more of it", 1.0)
                text = np.array([word.encode()] * rows, np.object_)
                yield Response(outputs={"text": text}, final=word == WORDS[-1])
        finally:
            self.streams_closed.set()

    async def _answered(self, request: Request) -> AsyncIterator[Response]:
        """Yield an answer in parts; question `broken` fails after the first word, and `slow` goes on for ever."""
        request = validated_request(request, self.models[request.model], _INFO, ServeOptions())
        self.seen.append(request)
        first_at = time.monotonic()
        try:
            if _question(request) == b"refused":
                raise BadRequestError("chat: the prompt has 120 tokens, the context 100", param="messages")
            for word in itertools.cycle(WORDS) if _question(request) == b"slow" else WORDS:
                await asyncio.sleep(0.005)
                yield Response(outputs={"text": _bytes(word)}, final=False, first_at=first_at)
                if _question(request) == b"broken":
                    raise FailedError("chat: the model fails on this input")
            yield Response(outputs={**_outputs(request), "text": _bytes("")}, first_at=first_at)
        finally:
            self.streams_closed.set()

    async def _slow(self) -> None:
        try:
            await self.finish.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@dataclass(frozen=True)
class Places:
    """The addresses of a server."""

    http: int
    grpc: int

    @property
    def http_url(self) -> str:
        return f"127.0.0.1:{self.http}"

    @property
    def grpc_url(self) -> str:
        return f"127.0.0.1:{self.grpc}"


@contextmanager
def served(service: Service, **options: Any) -> Iterator[Places]:
    """Serve on free ports of a loop in another thread."""
    places: list[Any] = []
    opened, stop = threading.Event(), threading.Event()

    async def run() -> None:
        async with Listeners(service, ServerOptions(http=0, grpc=0, **options)) as listeners:
            places.append(Places(*listeners.ports))
            opened.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert opened.wait(HANG_S)
    try:
        yield places[0]
    finally:
        stop.set()
        thread.join(HANG_S)
        assert not thread.is_alive()


def _bytes(text: str) -> np.ndarray:
    return np.array([text.encode()], np.object_)


def _question(request: Request) -> bytes | None:
    return request.inputs["question"].item() if "question" in request.inputs else None


def _models() -> Iterator[ServedModel]:
    every = {f"{name.lower()}_in": name for name in DATATYPES}
    yield ServedModel(
        signature=Signature(
            name="echo",
            inputs=tuple(Tensor(name=n, datatype=t, shape=(-1,), optional=True) for n, t in every.items()),
            outputs=tuple(Tensor(name=n.replace("_in", "_out"), datatype=t, shape=(-1,)) for n, t in every.items()),
            parameters={"scale": "a factor"},
            batched=False,
        ),
        choices={"scale": Choice(default=1, allowed=range(1, 9))},
    )
    for name in ("sum", "slow", "full", "crowded", "broken"):
        yield ServedModel(
            signature=Signature(
                name=name,
                inputs=(
                    Tensor(name="a", datatype="FP32", shape=(-1, 4)),
                    Tensor(name="b", datatype="FP32", shape=(-1, 4)),
                ),
                outputs=(Tensor(name="total", datatype="FP32", shape=(-1, 4)),),
                parameters={},
                batched=True,
            ),
            row_inputs=("a", "b"),
        )
    yield chat_model()
    image = Tensor(name="image", datatype="BYTES", shape=(-1,))
    for name, tensor in (("encode_text", Tensor(name="text", datatype="BYTES", shape=(-1,))), ("encode_image", image)):
        mode = {"mode": Choice(default="c", allowed=("c", "g"))} if tensor is image else {}
        yield ServedModel(
            signature=Signature(
                name=name,
                inputs=(tensor,),
                outputs=(Tensor(name="embedding", datatype="FP32", shape=(-1, WIDTH)),),
                parameters=dict.fromkeys(mode, "c or g"),
                batched=True,
                modes=("c", "g") if mode else (),
            ),
            row_inputs=(tensor.name,),
            choices=mode,
        )
    yield ServedModel(
        signature=Signature(
            name="caption",
            inputs=(image, Tensor(name="prompt", datatype="BYTES", shape=(1,), optional=True)),
            outputs=(Tensor(name="text", datatype="BYTES", shape=(-1,)),),
            parameters={"max_new_tokens": "at most"},
            batched=False,
            streams=True,
        ),
        row_inputs=("image",),
        choices={"max_new_tokens": Choice(default=30, allowed=range(1, 31))},
    )


def _outputs(request: Request) -> dict[str, np.ndarray]:
    inputs = request.inputs
    if request.model == "echo":
        outputs = {name.replace("_in", "_out"): values for name, values in inputs.items()}
        return {name: v for name, v in outputs.items() if request.outputs is None or name in request.outputs}
    if request.model == "chat":
        counts = {"prompt_tokens": 7, "completion_tokens": len(WORDS)}
        reason = "length" if request.parameters.get("max_new_tokens") == len(WORDS) else "stop"
        likely = {"logprobs": _bytes(json.dumps(LIKELY))} if "logprobs" in request.parameters else {}
        return {
            "text": _bytes("".join(WORDS)),
            "finish_reason": _bytes(reason),
            **{name: np.array([count]) for name, count in counts.items()},
            **likely,
        }
    if request.model == "caption":
        return {"text": np.array(["".join(WORDS).encode()] * len(inputs["image"]), np.object_)}
    if request.model.startswith("encode"):
        (values,) = inputs.values()
        return {"embedding": np.array([[len(value), 3, 0, 0] for value in values], np.float32)}
    return {"total": np.asarray(inputs["a"] + inputs["b"], np.float32)}
