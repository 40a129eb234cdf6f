"""What leaves every block of a graph, on ONNX Runtime and in torch, with one block of weights in memory at a time."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx.utils import Extractor
from torch import Tensor, nn

from internvl_edge.calib.heap import trim_heap
from internvl_edge.export.blockwise.segments import cut, run_segments
from internvl_edge.export.blockwise.streamed import Fetch, run_streamed
from internvl_edge.export.blockwise.widen import widen_bfloat16
from internvl_edge.export.canonical.block_names import block_of
from internvl_edge.export.models.config import ModelConfig
from internvl_edge.export.models.graph_modules.specs import GraphOptions
from internvl_edge.export.models.graphs import graph_row, graph_spec
from internvl_edge.export.models.internvl import InternVLModel
from internvl_edge.runtime.errors import ExportError

Observe = Callable[[str, np.ndarray], None]
"""Hears of a value as it comes: the residual stream under the path of the block that it leaves, or an output."""

_NO_LIMIT_FITS = -1
"""Bytes of weights that not even a segment without weights stays within: a cut wherever a block begins or ends."""
_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


class OnnxBlocks:
    """A graph of a bundle, cut at every block.

    Raises:
        ExportError: a block that no residual stream leaves.
    """

    def __init__(self, onnx_file: Path) -> None:
        # Inferred anew: what widening and Q/DQ insert has no type yet, and what crosses a cut needs one.
        self._proto = onnx.shape_inference.infer_shapes(ir.to_proto(widen_bfloat16(ir.load(onnx_file))))
        graph = ir.from_proto(self._proto).graph
        self._folder = onnx_file.parent
        self._segments = cut(graph, _NO_LIMIT_FITS)
        self._last_use = {name: index for index, part in enumerate(self._segments) for name in part.inputs}
        self._types = {str(value.name): value.dtype.numpy() for value in graph.inputs if value.dtype is not None}
        self._outputs = frozenset(str(value.name) for value in graph.outputs)
        self._streams = residual_streams(graph)

    @property
    def blocks(self) -> tuple[str, ...]:
        """Paths of the blocks in order."""
        return tuple(self._streams.values())

    def run(self, inputs: Mapping[str, np.ndarray], observe: Observe) -> None:
        """Run block after block; `inputs` are cast to the graph's own types when they are needed."""
        extractor = Extractor(self._proto)
        held = dict(inputs)
        for index, segment in enumerate(self._segments):
            part = extractor.extract_model(list(segment.inputs), list(segment.outputs))
            feeds = {name: self._cast(name, held) for name in segment.inputs}
            found = run_segments(part, [segment], self._folder, feeds)
            for name, value in found.items():
                if name in self._streams:
                    observe(self._streams[name], value)
                if name in self._outputs:
                    observe(name, value)
            held = {k: v for k, v in (held | found).items() if self._last_use.get(k, -1) > index}
            del feeds, found
            trim_heap()

    def _cast(self, name: str, held: Mapping[str, np.ndarray]) -> np.ndarray:
        with np.errstate(over="ignore"):  # fp32 past fp16's range: the infinity is what the user has to see
            return held[name].astype(self._types.get(name, held[name].dtype), copy=False)


def run_torch_blocks(
    name: str,
    config: ModelConfig,
    inputs: Mapping[str, np.ndarray],
    fetch: Fetch,
    feature_layers: Sequence[int],
    observe: Observe,
) -> None:
    """Run the torch module of graph `name` in fp32."""
    with torch.device("meta"):
        spec = graph_spec(name, config, InternVLModel(config).eval(), torch.float32, feature_layers)
    for path in torch_blocks(name, config, feature_layers):
        # Registered before the streaming's own hooks, so that it runs before the block's weights go.
        spec.module.get_submodule(path).register_forward_hook(_observing_hook(path, observe))
    tensors = [torch.from_numpy(np.array(inputs[item.name])) for item in spec.inputs]
    outputs = run_streamed(spec.module, fetch, *tensors)
    for output, tensor in zip(spec.outputs, outputs, strict=True):
        observe(output, tensor.numpy())


def torch_blocks(name: str, config: ModelConfig, feature_layers: Sequence[int] = ()) -> tuple[str, ...]:
    """Return the paths of the blocks that graph `name` needs, in order."""
    return graph_row(name).module.blocks(GraphOptions(config=config, feature_layers=tuple(feature_layers)))


def _observing_hook(path: str, observe: Observe) -> Callable[[nn.Module, object, object], None]:
    def tell(_: nn.Module, __: object, output: object) -> None:
        stream = output[0] if isinstance(output, tuple) else output
        assert isinstance(stream, Tensor)
        observe(path, stream.numpy())

    return tell


def residual_streams(graph: ir.Graph) -> dict[str, str]:
    """Return the value that carries the residual stream out of each block -> the block's path, in order.

    Of the floating ``[batch, rows, hidden]`` that a block makes and something outside of it reads, it is the last: the
    sum that ends the block depends on all the others. Names of values say nothing, caches have another rank.
    """
    found: dict[str, ir.Value] = {}
    blocks: dict[str, None] = {}
    for node in graph:
        block = block_of(node.name)
        if block is None:
            continue
        blocks[block] = None
        for value in node.outputs:
            if _is_rows(value) and _leaves(value, block):
                found[block] = value
    if lost := [block for block in blocks if block not in found]:
        raise ExportError(f"{graph.name}: no residual stream leaves {', '.join(lost)}; export the bundle again")
    return {str(found[block].name): block for block in blocks}


def _is_rows(value: ir.Value) -> bool:
    return value.dtype in _FLOATS and value.shape is not None and len(value.shape) == 3


def _leaves(value: ir.Value, block: str) -> bool:
    return value.is_graph_output() or any(block_of(user.name) != block for user in value.consumers())
