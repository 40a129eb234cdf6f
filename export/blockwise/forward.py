"""Run all samples of all graphs through the model block by block, with the weights of one block in memory.

Between two blocks, the residual stream of each graph is a named state, so that a run can stop there and be resumed.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from internvl_edge.calib.data.inputs import CalibrationInputs
from internvl_edge.calib.heap import trim_heap
from internvl_edge.calib.model import BlockObserver
from internvl_edge.export.blockwise.streamed import Fetch, Loader
from internvl_edge.export.models.config import ModelConfig, QllamaConfig
from internvl_edge.export.models.families.internvit import VISION_BLOCK
from internvl_edge.export.models.families.qllama import HEAD, qllama_blocks
from internvl_edge.export.models.graph_modules.specs import Stream
from internvl_edge.export.models.graphs import GRAPHS, graph_row
from internvl_edge.export.models.internvl import InternVLModel
from internvl_edge.export.models.qllama import Cache

_CHUNK_VALUES = 32 << 20
"""Most values in the widest tensor of a chunk of samples: 128 MiB in fp32."""


class TorchBlockwiseForward:
    """Forward of all samples, block by block; implements `calib.model.BlockwiseForward` in torch.

    `position` is the index of the next block in `blocks`, `states` the residual streams before it.
    """

    def __init__(
        self,
        config: ModelConfig,
        fetch: Fetch,
        inputs: CalibrationInputs,
        graphs: tuple[str, ...],
        compute: torch.dtype,
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

    def resume(self, position: int, states: dict[str, Tensor]) -> None:
        """Continue at the `position` and `states` of an earlier run on the same inputs."""
        self.position, self.states = position, states

    @property
    def samples(self) -> dict[str, int]:
        """Graph -> number of its samples."""
        pictures, ids = len(self._inputs.pixel_values), self._inputs.text_ids
        texts = len(ids) if ids is not None else 0
        return {row.name: texts if row.use.rows == "texts" else pictures for row in GRAPHS if row.quantized}

    @torch.no_grad()
    def step(self, observer: BlockObserver) -> str:
        """Run all samples through the next block, and return the block's path."""
        path = self.blocks[self.position]
        if self.position == 0:
            self.states["vision"] = self._embedded_pictures()
        if not path.startswith("vision_model") and not self._started:
            self._loader.free()
            self._start_streams()
            self._started = True
        if path == HEAD:
            self._head(observer)
        else:
            self._block(path, observer)
        self.position += 1
        trim_heap()
        return path

    def _block(self, path: str, observer: BlockObserver) -> None:
        layer = self._model.get_submodule(path)
        self._loader.load(path, layer)
        try:
            with _observed(layer, path, observer), self._arithmetic():
                if path.startswith("vision_model"):
                    self._vision(path, layer, observer)
                else:
                    for chunk in self._text_chunks():
                        chunk.advance(path, layer, observer)
        finally:
            self._loader.unload(layer)

    def _vision(self, path: str, layer: nn.Module, observer: BlockObserver) -> None:
        states = self.states["vision"]
        for rows in _chunks(states, self._config.vision.intermediate_size):
            observer.enter("vision", rows.stop - rows.start, None)
            states[rows] = layer(states[rows])
            observer.leave(path, states[rows])

    def _embedded_pictures(self) -> Tensor:
        embeddings = self._model.vision_model.embeddings
        path, loader = "vision_model.embeddings", Loader(self._fetch)
        loader.load(path, embeddings)
        pixels = torch.from_numpy(self._inputs.pixel_values)
        states = torch.cat([embeddings(part) for part in torch.split(pixels, 8)])
        loader.unload(embeddings)
        return states

    def _start_streams(self) -> None:
        """Load the parts of QLLaMA outside of its blocks and start the streams; embeddings are unloaded again."""
        text = self._model.qllama.model
        loader = Loader(self._fetch, self._compute)
        loader.load("qllama.model.rotary", text.rotary)
        if hasattr(self._model, "query_tokens"):
            value = torch.empty(self._model.query_tokens.shape)
            self._fetch("query_tokens", value)
            self._model.query_tokens = nn.Parameter(value, requires_grad=False)
        absent = {name: stream for name, stream in self._streams.items() if name not in self.states}
        if absent:
            loader.load("qllama.model.embed_tokens", text.embed_tokens)
            self.states |= {name: stream.start().float() for name, stream in absent.items()}
            loader.unload(text.embed_tokens)

    def _text_chunks(self) -> Iterator["_Chunk"]:
        width = self._config.need(QllamaConfig).intermediate_size
        for name, stream in self._streams.items():
            if graph_row(name).continues in self._streams:
                continue  # it runs together with the graph whose cache it reads
            followers = {other: s for other, s in self._streams.items() if graph_row(other).continues == name}
            for rows in _chunks(self.states[name], width):
                yield _Chunk(self._model, self.states, rows, name, {name: stream, **followers})

    def _head(self, observer: BlockObserver) -> None:
        norm = self._model.qllama.model.norm
        loader = Loader(self._fetch)
        loader.load("qllama.model.norm", norm)
        name = next(name for name in self._streams if graph_row(name).has_head)
        stream, states = self._streams[name], self.states[name]
        for rows in _chunks(states, states.shape[2]):
            observer.enter(name, rows.stop - rows.start, stream.valid(rows))
            observer.linear(HEAD, norm(states[rows]))
        loader.unload(norm)

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """Multiply matrices in the `compute` type; norms and the residual stream stay in fp32."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")  # a bf16 row by an fp32 gain
            with torch.autocast("cpu", torch.bfloat16, enabled=self._compute == torch.bfloat16):
                yield


@dataclass(frozen=True)
class _Chunk:
    """Some samples of a stream, and of the streams that continue from its cache."""

    model: InternVLModel
    states: dict[str, Tensor]
    rows: slice
    name: str
    streams: Mapping[str, Stream]
    """Graph -> its stream: the chunk's own, and those that continue from its cache."""

    def advance(self, path: str, layer: nn.Module, observer: BlockObserver) -> None:
        cache = self._through(self.name, None, path, layer, observer)
        for name in self.streams:
            if name != self.name:
                self._through(name, cache, path, layer, observer)

    def _through(self, name: str, past: Cache | None, path: str, layer: nn.Module, observer: BlockObserver) -> Cache:
        stream, vision = self.streams[name], None
        if "vision_states" in graph_row(name).feeds:
            vision = self.states["vision"][self.rows]
        held = past[0].shape[2] if past is not None else 0
        context = stream.context(self.rows, vision, held)
        observer.enter(name, self.rows.stop - self.rows.start, stream.valid(self.rows))
        x, cache = layer(self.states[name][self.rows], context, self.model.qllama.model.rotary, past)
        self.states[name][self.rows] = x
        observer.leave(path, self.states[name][self.rows])
        result: Cache = cache
        return result


def _text_streams(model: InternVLModel, inputs: CalibrationInputs, graphs: tuple[str, ...]) -> dict[str, Stream]:
    """Return the streams of `graphs` that `inputs` has samples for, and the streams whose cache these read."""
    rows = {name: graph_row(name) for name in graphs}
    asked = {
        name
        for name, row in rows.items()
        if row.stream is not None and (row.use.ids is None or inputs.ids(row.use.ids) is not None)
    }
    asked |= {row.continues for name, row in rows.items() if name in asked and row.continues is not None}
    streams = {}
    for row in GRAPHS:
        if row.name in asked and row.stream is not None:
            ids = inputs.ids(row.use.ids) if row.use.ids is not None else None
            held = torch.from_numpy(ids) if ids is not None else None
            streams[row.name] = row.stream(model, len(inputs.pixel_values), held)
    return streams


def _blocks(config: ModelConfig, graphs: tuple[str, ...], texts: bool) -> list[str]:
    blocks = [VISION_BLOCK.format(index) for index in range(config.vision.num_layers)]
    if texts and config.find(QllamaConfig) is not None:
        blocks += qllama_blocks(config)
        if any(graph_row(name).has_head for name in graphs):
            blocks.append(HEAD)
    return blocks


def _chunks(states: Tensor, width: int) -> Iterator[slice]:
    """Yield slices of consecutive samples whose widest tensor has at most `_CHUNK_VALUES` values."""
    samples = states.shape[0]
    size = max(1, _CHUNK_VALUES // (states.shape[1] * width))
    for start in range(0, samples, size):
        yield slice(start, min(start + size, samples))


@contextmanager
def _observed(layer: nn.Module, path: str, observer: BlockObserver) -> Iterator[None]:
    """Pass the input of every linear and every attention in `layer` to `observer`."""
    with ExitStack() as stack:
        attention = _AttentionObserver(observer)
        for name, part in layer.named_modules():
            full = f"{path}.{name}" if name else path
            if isinstance(part, nn.Linear):
                stack.callback(part.register_forward_pre_hook(_linear_hook(observer, full)).remove)
            elif name and name.rpartition(".")[2] in ("attn", "self_attn", "cross_attn"):
                stack.callback(part.register_forward_pre_hook(attention.module_hook(full)).remove)
        stack.enter_context(attention)
        yield


def _linear_hook(observer: BlockObserver, path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    return lambda _, inputs: observer.linear(path, inputs[0])


class _AttentionObserver(TorchFunctionMode):
    """Torch function mode that passes each call of scaled_dot_product_attention to the observer.

    Hooks of `module_hook` keep the path of the module that is running.
    """

    def __init__(self, observer: BlockObserver) -> None:
        super().__init__()
        self._observer = observer
        self._path = ""

    def module_hook(self, path: str) -> Callable[[nn.Module, object], None]:
        def hook(_: nn.Module, __: object) -> None:
            self._path = path

        return hook

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), keywords: Mapping[str, Any] | None = None
    ) -> Any:
        if function is F.scaled_dot_product_attention:
            q, k, v = arguments[:3]
            self._observer.attention(self._path, q, k, v, arguments[3] if len(arguments) > 3 else None)
        return function(*arguments, **(keywords or {}))
