"""The golden chat cases as torch modules and as canonical graphs on ONNX Runtime, in fp32."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch

from internvl_edge.export.blockwise.sources import weight_sources
from internvl_edge.export.canonical.passes import canonicalize
from internvl_edge.export.canonical.trace import trace_graph
from internvl_edge.export.checkpoint import open_checkpoint
from internvl_edge.export.checkpoint.store.weight_sources import whole
from internvl_edge.export.dialects import Dialect, lower
from internvl_edge.export.models.config import LanguageConfig, ModelConfig
from internvl_edge.export.models.families.language_model import EMBEDDING
from internvl_edge.export.models.graphs import graph_spec
from internvl_edge.export.models.internvl import InternVLModel
from tests.golden_chat import GOLDEN_CHAT
from tests.parity.chat.decoding import Arrays, Graph


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Loaded:
    """A checkpoint with all of its weights in memory."""

    config: ModelConfig
    weights: Mapping[str, torch.Tensor]

    @property
    def language(self) -> LanguageConfig:
        """Configuration of the language model."""
        return self.config.need(LanguageConfig)

    @property
    def table(self) -> np.ndarray:
        """The table of token embeddings ``[V, H]``."""
        return self.weights[EMBEDDING].numpy()

    def module(self) -> InternVLModel:
        """Return the torch model in fp32."""
        with torch.device("meta"):
            model = InternVLModel(self.config).eval()
        model.load_state_dict(self.weights, strict=True, assign=True)
        return model


@cache
def loaded(folder: str) -> Loaded:
    """Return the checkpoint in a folder of the golden data, as ``c1/checkpoint``."""
    return load(GOLDEN_CHAT / folder)


def load(folder: Path) -> Loaded:
    """Return the checkpoint in `folder`."""
    checkpoint = open_checkpoint(folder)
    sources = weight_sources(checkpoint.tensors, checkpoint.config)
    return Loaded(config=checkpoint.config, weights={name: whole(source) for name, source in sources.items()})


@cache
def torch_graph(folder: str, name: str) -> Graph:
    """Return graph `name` of a golden checkpoint in torch."""
    model = loaded(folder)
    spec = graph_spec(name, model.config, model.module(), torch.float32)

    @torch.no_grad()
    def run(inputs: Mapping[str, np.ndarray]) -> Arrays:
        found = spec.module(*(torch.from_numpy(np.ascontiguousarray(inputs[item.name])) for item in spec.inputs))
        outputs = found if isinstance(found, tuple) else (found,)
        return {output: value.numpy() for output, value in zip(spec.outputs, outputs, strict=True)}

    return run


@cache
def onnx_graph(folder: str, name: str, dialect: Dialect | None = None) -> Graph:
    """Return graph `name` of a golden checkpoint on ONNX Runtime, in canonical form or in a dialect."""
    model = loaded(folder)
    graph = canonicalize(trace_graph(name, model.config, torch.float32))
    if dialect is not None:
        lower(graph, dialect)
    for weight, value in graph.graph.initializers.items():
        if value.const_value is None:
            value.const_value = ir.tensor(model.weights[weight].numpy(), name=weight)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    proto = ir.to_proto(graph).SerializeToString()
    session = onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Mapping[str, np.ndarray]) -> Arrays:
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    return run
