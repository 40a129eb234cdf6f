"""Run all samples of all graphs through the model block by block, with the weights of one block in memory.

Between two blocks, the residual stream of each graph is a named state, so that a run can stop there and be resumed.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from internvl_edge.export.models.config import ModelConfig
from internvl_edge.export.models.families import FAMILIES
from internvl_edge.export.models.families.family import BlockStack, Head
from internvl_edge.export.models.families.internvit import VISION_STACK
from internvl_edge.export.models.graph_modules.specs import Stream
from internvl_edge.export.models.graphs import GraphRow, graph_rows
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
        self._rows = graph_rows(config)
        self._streams = _streams(self._model, self._rows, inputs, graphs)
        self._stack_of = _blocks(config, [self._rows[name] for name in self._streams])
        self.blocks = list(self._stack_of)
        self.position = 0
        self.states: dict[str, Tensor] = {}
        self._entered: BlockStack | None = None

    def resume(self, position: int, states: dict[str, Tensor]) -> None:
        """Continue at the `position` and `states` of an earlier run on the same inputs."""
        self.position, self.states = position, states

    @property
    def samples(self) -> dict[str, int]:
        """Graph -> number of its samples."""
        pictures, ids = len(self._inputs.pixel_values), self._inputs.text_ids
        texts = len(ids) if ids is not None else 0
        return {
            row.name: texts if row.use.rows == "texts" else pictures for row in self._rows.values() if row.quantized
        }

    @torch.no_grad()
    def step(self, observer: BlockObserver) -> str:
        """Run all samples through the next block, and return the block's path."""
        path = self.blocks[self.position]
        stack = self._stack_of[path]
        if stack is not self._entered:
            self._enter(stack)
            self._entered = stack
        if stack.head is not None and path == stack.head.path:
            self._head(stack.head, observer)
        else:
            self._block(path, stack, observer)
        self.position += 1
        trim_heap()
        return path

    def _enter(self, stack: BlockStack) -> None:
        """Load the tensors of `stack` outside of its blocks, and start its streams; embeddings are unloaded again."""
        self._loader.free()
        loader = Loader(self._fetch, self._compute)
        for name in stack.kept:
            self._load_kept(name, loader)
        absent = [name for name in self._of_stack(stack) if name not in self.states]
        if absent:
            embeddings = self._model.get_submodule(stack.embeddings)
            loader.load(stack.embeddings, embeddings)
            self.states |= {name: self._streams[name].start().float() for name in absent}
            loader.unload(embeddings)

    def _load_kept(self, name: str, loader: Loader) -> None:
        """Load the module or the parameter `name`, if the model has it."""
        parameter = dict(self._model.named_parameters(recurse=False)).get(name)
        if parameter is not None:
            value = torch.empty(parameter.shape)
            self._fetch(name, value)
            setattr(self._model, name, nn.Parameter(value, requires_grad=False))
        elif "." in name:
            loader.load(name, self._model.get_submodule(name))

    def _of_stack(self, stack: BlockStack) -> list[str]:
        return [name for name in self._streams if self._rows[name].stack is stack]

    def _block(self, path: str, stack: BlockStack, observer: BlockObserver) -> None:
        layer = self._model.get_submodule(path)
        self._loader.load(path, layer)
        try:
            with _observed(layer, path, observer), self._arithmetic():
                for chunk in self._chunks_of(stack):
                    chunk.advance(path, layer, observer)
        finally:
            self._loader.unload(layer)

    def _chunks_of(self, stack: BlockStack) -> Iterator["_Chunk"]:
        names = self._of_stack(stack)
        for name in names:
            if self._rows[name].continues in names:
                continue  # it runs together with the graph whose cache it reads
            streams = {other: self._streams[other] for other in names if self._rows[other].continues == name}
            for rows in _chunks(self.states[name], stack.width(self._config)):
                every = {name: self._streams[name], **streams}
                yield _Chunk(self._model, stack, self._rows, self.states, rows, name, every)

    def _head(self, head: Head, observer: BlockObserver) -> None:
        norm = self._model.get_submodule(head.norm)
        loader = Loader(self._fetch)
        loader.load(head.norm, norm)
        name = next(name for name in self._streams if self._rows[name].has_head)
        stream, states = self._streams[name], self.states[name]
        for rows in _chunks(states, states.shape[2]):
            observer.enter(name, rows.stop - rows.start, stream.valid(rows))
            observer.linear(head.path, norm(states[rows]))
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
    stack: BlockStack
    graphs: Mapping[str, GraphRow]
    states: dict[str, Tensor]
    rows: slice
    name: str
    streams: Mapping[str, Stream]
    """Graph -> its stream: the chunk's own, and those that continue from its cache."""

    def advance(self, path: str, layer: nn.Module, observer: BlockObserver) -> None:
        """Run the samples through `layer`, whose path is `path`."""
        cache = self._through(self.name, None, path, layer, observer)
        for name in self.streams:
            if name != self.name:
                self._through(name, cache, path, layer, observer)

    def _through(
        self, name: str, past: Cache | None, path: str, layer: nn.Module, observer: BlockObserver
    ) -> Cache | None:
        stream, attended = self.streams[name], self.graphs[name].attends_to
        states = self.states[attended][self.rows] if attended is not None else None
        context = stream.context(self.rows, states, past[0].shape[2] if past is not None else 0)
        observer.enter(name, self.rows.stop - self.rows.start, stream.valid(self.rows))
        rows, cache = self.stack.run(self.model, layer, self.states[name][self.rows], context, past)
        self.states[name][self.rows] = rows
        observer.leave(path, self.states[name][self.rows])
        result: Cache | None = cache
        return result


def _streams(
    model: InternVLModel, rows: Mapping[str, GraphRow], inputs: CalibrationInputs, graphs: tuple[str, ...]
) -> dict[str, Stream]:
    """Return the streams of the tower, of those `graphs` that have samples, and of graphs that these continue."""
    asked = {
        name
        for name in graphs
        if rows[name].stream is not None and ((kind := rows[name].use.ids) is None or inputs.ids(kind) is not None)
    }
    asked |= {before for name in asked if (before := rows[name].continues) is not None}
    asked |= {name for name, row in rows.items() if row.stack is VISION_STACK}
    pixels = torch.from_numpy(inputs.pixel_values)
    streams = {}
    for row in rows.values():
        if row.name in asked and row.stream is not None:
            ids = inputs.ids(row.use.ids) if row.use.ids is not None else None
            streams[row.name] = row.stream(model, pixels, torch.from_numpy(ids) if ids is not None else None)
    return streams


def _blocks(config: ModelConfig, rows: Sequence[GraphRow]) -> dict[str, BlockStack]:
    """Return the path of every block of these graphs, in the order of the forward -> its stack."""
    blocks: dict[str, BlockStack] = {}
    for stack in (family.stack for family in FAMILIES):
        passing = [row for row in rows if row.stack is stack]
        if stack is not None and passing:
            blocks |= dict.fromkeys(stack.blocks(config), stack)
            if stack.head is not None and any(row.has_head for row in passing):
                blocks[stack.head.path] = stack
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
