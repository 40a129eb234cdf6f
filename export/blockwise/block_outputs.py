"""Observe the output of every block of a graph in ONNX Runtime and in torch, with one block in memory at a time."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx.utils import Extractor
from torch import Tensor, nn

from internvl_edge.calib.heap import trim_heap
from internvl_edge.export.blockwise.large_matrices import SplitLargeMatricesPass
from internvl_edge.export.blockwise.segments import cut, run_segments
from internvl_edge.export.blockwise.streamed import Fetch, run_streamed
from internvl_edge.export.blockwise.widen import widen_bfloat16
from internvl_edge.export.canonical.block_names import block_of
from internvl_edge.export.models.config import ModelConfig
from internvl_edge.export.models.graph_modules.specs import GraphOptions
from internvl_edge.export.models.graphs import graph_rows, graph_spec
from internvl_edge.export.models.internvl import InternVLModel
from internvl_edge.runtime.errors import ExportError

Observe = Callable[[str, np.ndarray], None]
"""Observer of values: called with an output and its name, or with a block's output stream and the block's path."""

_NO_LIMIT_FITS = -1
"""Limit below any segment's weights, so that the graph is cut wherever a block begins or ends."""
_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


class OnnxBlocks:
    """A graph of a bundle that runs on ONNX Runtime, cut at every block.

    Raises:
        ExportError: a block has no output that could be the residual stream.
    """

    def __init__(self, onnx_file: Path) -> None:
        # Types are inferred again: nodes for widening and Q/DQ have none yet, and values at a cut need one.
        self._proto = onnx.shape_inference.infer_shapes(ir.to_proto(_prepared(onnx_file)))
        graph = ir.from_proto(self._proto).graph
        self._folder = onnx_file.parent
        self._segments = cut(graph, _NO_LIMIT_FITS)
        self._last_use = {name: index for index, part in enumerate(self._segments) for name in part.inputs}
        self._types = {str(value.name): value.dtype.numpy() for value in graph.inputs if value.dtype is not None}
        self._outputs = frozenset(str(value.name) for value in graph.outputs)
        self._streams = residual_streams(graph)

    @property
    def blocks(self) -> tuple[str, ...]:
        """Module paths of the blocks, in order."""
        return tuple(self._streams.values())

    def run(self, inputs: Mapping[str, np.ndarray], observe: Observe) -> None:
        """Run block after block and pass values to `observe`; `inputs` are cast to the graph's types."""
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
        with np.errstate(over="ignore"):  # a value beyond fp16's range becomes infinite, which the comparison shows
            return held[name].astype(self._types.get(name, held[name].dtype), copy=False)


def _prepared(onnx_file: Path) -> ir.Model:
    """Return the graph in types that ONNX Runtime computes in, with large matrices in parts."""
    return SplitLargeMatricesPass()(widen_bfloat16(ir.load(onnx_file))).model


def run_torch_blocks(
    name: str,
    config: ModelConfig,
    inputs: Mapping[str, np.ndarray],
    fetch: Fetch,
    feature_layers: Sequence[int],
    observe: Observe,
) -> None:
    """Run the torch module of graph `name` in fp32, and pass the output of each block and of the graph to `observe`."""
    with torch.device("meta"):
        spec = graph_spec(name, config, InternVLModel(config).eval(), torch.float32, feature_layers)
    for path in torch_blocks(name, config, feature_layers):
        # Registered before the hooks of run_streamed, so that it runs before they unload the block's weights.
        spec.module.get_submodule(path).register_forward_hook(_observing_hook(path, observe))
    tensors = [torch.from_numpy(np.array(inputs[item.name])) for item in spec.inputs]
    outputs = run_streamed(spec.module, fetch, *tensors)
    for output, tensor in zip(spec.outputs, outputs, strict=True):
        observe(output, tensor.numpy())


def torch_blocks(name: str, config: ModelConfig, feature_layers: Sequence[int] = ()) -> tuple[str, ...]:
    """Return the module paths of the blocks that graph `name` runs, in order."""
    return graph_rows(config)[name].module.blocks(GraphOptions(config=config, feature_layers=tuple(feature_layers)))


def _observing_hook(path: str, observe: Observe) -> Callable[[nn.Module, object, object], None]:
    def hook(_: nn.Module, __: object, output: object) -> None:
        stream = output[0] if isinstance(output, tuple) else output
        assert isinstance(stream, Tensor)
        observe(path, stream.numpy())

    return hook


def residual_streams(graph: ir.Graph) -> dict[str, str]:
    """Return a map from the name of each block's output stream to the block's path, in order.

    The stream is the last floating value ``[batch, rows, hidden]`` that the block computes and another node reads: the
    sum at the end of the block depends on all others. Caches have another rank.
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
        raise ExportError(f"{graph.name}: no residual stream comes out of {', '.join(lost)}; export the bundle again")
    return {str(found[block].name): block for block in blocks}


def _is_rows(value: ir.Value) -> bool:
    return value.dtype in _FLOATS and value.shape is not None and len(value.shape) == 3


def _leaves(value: ir.Value, block: str) -> bool:
    return value.is_graph_output() or any(block_of(user.name) != block for user in value.consumers())
