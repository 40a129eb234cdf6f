"""Take all samples through the model block by block: one block's weights in memory, every graph's samples pass through.

Each graph's residual stream is a named state between two blocks, so a walk can be stopped there and gone on with.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from internvl_edge.export.config import ModelConfig
from internvl_edge.export.heap import trim_heap
from internvl_edge.export.models.graphs import DecoderGraph, ItmGraph, QueryGraph, TextGraph
from internvl_edge.export.models.internvl import InternVLModel
from internvl_edge.export.models.qllama import Cache, Context
from internvl_edge.export.sites import HEAD, QLLAMA_BLOCK, VISION_BLOCK
from internvl_edge.export.streamed import Fetch, Loader

_CHUNK_VALUES = 32 << 20
"""Values of the widest tensor of one chunk of samples: 128 MiB in fp32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkInputs:
    """What the samples are; ids are right-padded with 0."""

    pixel_values: np.ndarray
    """``[S, 3, H, W]``."""
    text_ids: np.ndarray | None = None
    """``[T, L]`` for `text`."""
    caption_ids: np.ndarray | None = None
    """``[S, n]`` for `decoder`: prompt, caption and eos."""
    match_ids: np.ndarray | None = None
    """``[S, L]`` for `itm`."""


class Listener(Protocol):
    """Hears what passes."""

    def enter(self, graph: str, samples: int, valid: Tensor | None) -> None:
        """A chunk of `samples` samples of `graph` comes; `valid` ``[B, n]`` tells rows from padding."""

    def linear(self, path: str, x: Tensor) -> None:
        """Linear `path` is about to be applied to `x` ``[B, n, C]``."""

    def attention(self, path: str, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> None:
        """Attention `path` is about to be applied to q, k, v ``[B, H, n, D]``."""

    def leave(self, path: str, x: Tensor) -> None:
        """The chunk leaves block `path` as `x` ``[B, n, C]``."""


class Walk:
    """The walk's place (`position` of `blocks`) and the residual streams there (`states`)."""

    def __init__(
        self, config: ModelConfig, fetch: Fetch, inputs: WalkInputs, graphs: tuple[str, ...], compute: torch.dtype
    ) -> None:
        self._config = config
        self._fetch = fetch
        self._inputs = inputs
        self._compute = compute
        with torch.device("meta"):
            self._model = InternVLModel(config).eval()
        self._loader = Loader(fetch, compute)
        self._streams = _text_streams(self._model, inputs, graphs)
        self.blocks = _blocks(config, graphs, bool(self._streams))
        self.position = 0
        self.states: dict[str, Tensor] = {}
        self._started = False

    def take_up(self, position: int, states: dict[str, Tensor]) -> None:
        """Go to a place where an earlier walk on the same inputs has been."""
        self.position, self.states = position, states

    @property
    def done(self) -> bool:
        """Whether every block is behind."""
        return self.position == len(self.blocks)

    @torch.no_grad()
    def step(self, listener: Listener) -> str:
        """Take all samples through the next block; return its path."""
        path = self.blocks[self.position]
        if self.position == 0:
            self.states["vision"] = self._embedded_pictures()
        if not path.startswith("vision_model") and not self._started:
            self._loader.free()
            self._start_streams()
            self._started = True
        if path == HEAD:
            self._head(listener)
        else:
            self._block(path, listener)
        self.position += 1
        trim_heap()
        return path

    def _block(self, path: str, listener: Listener) -> None:
        layer = self._model.get_submodule(path)
        self._loader.load(path, layer)
        try:
            with _heard(layer, path, listener), self._arithmetic():
                if path.startswith("vision_model"):
                    self._vision(path, layer, listener)
                else:
                    for chunk in self._text_chunks():
                        chunk.advance(path, layer, listener)
        finally:
            self._loader.unload(layer)

    def _vision(self, path: str, layer: nn.Module, listener: Listener) -> None:
        states = self.states["vision"]
        for rows in _chunks(states, self._config.vision.intermediate_size):
            listener.enter("vision", rows.stop - rows.start, None)
            states[rows] = layer(states[rows])
            listener.leave(path, states[rows])

    def _embedded_pictures(self) -> Tensor:
        embeddings = self._model.vision_model.embeddings
        path, loader = "vision_model.embeddings", Loader(self._fetch)
        loader.load(path, embeddings)
        pixels = torch.from_numpy(self._inputs.pixel_values)
        states = torch.cat([embeddings(part) for part in torch.split(pixels, 8)])
        loader.unload(embeddings)
        return states

    def _start_streams(self) -> None:
        """Load what QLLaMA has outside of its blocks: queries and rotary tables for good, embeddings for a moment."""
        text = self._model.qllama.model
        loader = Loader(self._fetch, self._compute)
        loader.load("qllama.model.rotary", text.rotary)
        if hasattr(self._model, "query_tokens"):
            value = torch.empty(self._model.query_tokens.shape)
            self._fetch("query_tokens", value)
            self._model.query_tokens = nn.Parameter(value, requires_grad=False)
        absent = [stream for stream in self._streams if stream.name not in self.states]
        if absent:
            loader.load("qllama.model.embed_tokens", text.embed_tokens)
            self.states |= {stream.name: stream.start().float() for stream in absent}
            loader.unload(text.embed_tokens)

    def _text_chunks(self) -> Iterator["_Chunk"]:
        assert self._config.qllama is not None
        width = self._config.qllama.intermediate_size
        names = {stream.name for stream in self._streams}
        for stream in self._streams:
            if stream.name == "decoder" and "query" in names:
                continue  # goes with the queries, whose cache it reads
            follower = next((s for s in self._streams if s.name == "decoder"), None) if stream.name == "query" else None
            for rows in _chunks(self.states[stream.name], width):
                yield _Chunk(self._model, self.states, rows, stream, follower)

    def _head(self, listener: Listener) -> None:
        norm = self._model.qllama.model.norm
        loader = Loader(self._fetch)
        loader.load("qllama.model.norm", norm)
        stream = next(s for s in self._streams if s.name == "decoder")
        states = self.states["decoder"]
        for rows in _chunks(states, states.shape[2]):
            listener.enter("decoder", rows.stop - rows.start, stream.valid(rows))
            listener.linear(HEAD, norm(states[rows]))
        loader.unload(norm)

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """Multiply in the type asked for; norms and the residual stream stay fp32."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")  # a bf16 row by an fp32 gain
            with torch.autocast("cpu", torch.bfloat16, enabled=self._compute == torch.bfloat16):
                yield


@dataclass(frozen=True)
class _Stream:
    """One graph's way through QLLaMA."""

    name: str
    start: Callable[[], Tensor]
    """The residual stream ``[B, n, Ht]`` before the first block; reads embeddings."""
    context: Callable[[slice, Tensor | None, int], Context]
    """What the layers see of some samples: their vision states, and how many rows are cached."""
    valid: Callable[[slice], Tensor | None]


@dataclass(frozen=True)
class _Chunk:
    """Some samples of a stream, and those of the decoder behind the queries."""

    model: InternVLModel
    states: dict[str, Tensor]
    rows: slice
    stream: _Stream
    follower: _Stream | None

    def advance(self, path: str, layer: nn.Module, listener: Listener) -> None:
        cache = self._through(self.stream, None, path, layer, listener)
        if self.follower is not None:
            self._through(self.follower, cache, path, layer, listener)

    def _through(self, stream: _Stream, past: Cache | None, path: str, layer: nn.Module, listener: Listener) -> Cache:
        vision = self.states["vision"][self.rows] if stream.name in ("query", "itm") else None
        held = past[0].shape[2] if past is not None else 0
        context = stream.context(self.rows, vision, held)
        listener.enter(stream.name, self.rows.stop - self.rows.start, stream.valid(self.rows))
        x, cache = layer(self.states[stream.name][self.rows], context, self.model.qllama.model.rotary, past)
        self.states[stream.name][self.rows] = x
        listener.leave(path, self.states[stream.name][self.rows])
        result: Cache = cache
        return result


def _text_streams(model: InternVLModel, inputs: WalkInputs, graphs: tuple[str, ...]) -> list[_Stream]:
    """Return the streams that `graphs` and `inputs` ask for; the decoder needs the queries' cache."""
    streams = []
    if "query" in graphs or ("decoder" in graphs and inputs.caption_ids is not None):
        streams.append(_query_stream(model, len(inputs.pixel_values)))
    if "decoder" in graphs and inputs.caption_ids is not None:
        streams.append(_decoder_stream(model, torch.from_numpy(inputs.caption_ids)))
    if "text" in graphs and inputs.text_ids is not None:
        streams.append(_text_stream(model, torch.from_numpy(inputs.text_ids)))
    if "itm" in graphs and inputs.match_ids is not None:
        streams.append(_itm_stream(model, torch.from_numpy(inputs.match_ids)))
    return streams


def _query_stream(model: InternVLModel, samples: int) -> _Stream:
    graph = QueryGraph(model)

    def context(rows: slice, vision: Tensor | None, held: int) -> Context:
        assert vision is not None
        return graph.context(vision)

    return _Stream("query", lambda: model.query_tokens.repeat(samples, 1, 1), context, lambda rows: None)


def _decoder_stream(model: InternVLModel, ids: Tensor) -> _Stream:
    graph = DecoderGraph(model, torch.float32)

    def context(rows: slice, vision: Tensor | None, held: int) -> Context:
        kept = ids[rows] > 0
        mask = F.pad(kept.long(), (held, 0), value=1)
        positions = (held + torch.arange(ids.shape[1])).expand(kept.shape[0], -1)
        return graph.context(mask, positions, held)

    return _Stream("decoder", lambda: model.qllama.model.embed_tokens(ids), context, lambda rows: ids[rows] > 0)


def _text_stream(model: InternVLModel, ids: Tensor) -> _Stream:
    graph = TextGraph(model, torch.float32)

    def context(rows: slice, vision: Tensor | None, held: int) -> Context:
        return graph.context(ids[rows])

    return _Stream("text", lambda: model.qllama.model.embed_tokens(ids), context, lambda rows: ids[rows] > 0)


def _itm_stream(model: InternVLModel, ids: Tensor) -> _Stream:
    graph = ItmGraph(model, torch.float32)

    def context(rows: slice, vision: Tensor | None, held: int) -> Context:
        assert vision is not None
        return graph.context(vision, ids[rows])

    def valid(rows: slice) -> Tensor:
        return F.pad(ids[rows] > 0, (model.query_tokens.shape[1], 0), value=True)

    return _Stream("itm", lambda: ItmGraph(model, torch.float32).rows(ids), context, valid)


def _blocks(config: ModelConfig, graphs: tuple[str, ...], texts: bool) -> list[str]:
    blocks = [VISION_BLOCK.format(index) for index in range(config.vision.num_layers)]
    if texts and config.qllama is not None:
        blocks += [QLLAMA_BLOCK.format(index) for index in range(config.qllama.num_layers)]
        if "decoder" in graphs:
            blocks.append(HEAD)
    return blocks


def _chunks(states: Tensor, width: int) -> Iterator[slice]:
    """Yield consecutive samples whose widest tensor stays below `_CHUNK_VALUES`."""
    samples = states.shape[0]
    size = max(1, _CHUNK_VALUES // (states.shape[1] * width))
    for start in range(0, samples, size):
        yield slice(start, min(start + size, samples))


@contextmanager
def _heard(layer: nn.Module, path: str, listener: Listener) -> Iterator[None]:
    """Tell `listener` of every linear and every attention in `layer`."""
    with ExitStack() as stack:
        ear = _AttentionEar(listener)
        for name, part in layer.named_modules():
            full = f"{path}.{name}" if name else path
            if isinstance(part, nn.Linear):
                stack.callback(part.register_forward_pre_hook(_tell(listener, full)).remove)
            elif name and name.rpartition(".")[2] in ("attn", "self_attn", "cross_attn"):
                stack.callback(part.register_forward_pre_hook(ear.entered(full)).remove)
        stack.enter_context(ear)
        yield


def _tell(listener: Listener, path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    return lambda _, inputs: listener.linear(path, inputs[0])


class _AttentionEar(TorchFunctionMode):
    """Sees each call of scaled_dot_product_attention, and knows which module it is in."""

    def __init__(self, listener: Listener) -> None:
        super().__init__()
        self._listener = listener
        self._path = ""

    def entered(self, path: str) -> Callable[[nn.Module, object], None]:
        def note(_: nn.Module, __: object) -> None:
            self._path = path

        return note

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), keywords: Mapping[str, Any] | None = None
    ) -> Any:
        if function is F.scaled_dot_product_attention:
            q, k, v = arguments[:3]
            self._listener.attention(self._path, q, k, v, arguments[3] if len(arguments) > 3 else None)
        return function(*arguments, **(keywords or {}))
