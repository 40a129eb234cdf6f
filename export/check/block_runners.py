"""The two models of a comparison, which run block by block: a bundle on ONNX Runtime, a checkpoint in torch."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from safetensors import safe_open

from internvl_edge.export.blockwise.block_outputs import Observe, OnnxBlocks, run_torch_blocks, torch_blocks
from internvl_edge.export.blockwise.sources import fetch_from, stored_shapes, table_rows, weight_sources
from internvl_edge.export.check.graph_inputs import Shape
from internvl_edge.export.checkpoint import open_checkpoint
from internvl_edge.export.checkpoint.required_tensors import require_tensors
from internvl_edge.export.models.families.language_model import EMBEDDING
from internvl_edge.export.models.families.qllama import QLLAMA_BLOCK
from internvl_edge.export.models.graphs import GraphRow, cut_for, graph_rows, needs_language, row_with_role
from internvl_edge.export.models.model_info import model_info
from internvl_edge.export.models.resolution import at_image_size
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.bundle.embedding_table import EmbeddingTable
from internvl_edge.runtime.bundle.manifest import ModelInfo
from internvl_edge.runtime.bundle.preprocessor_file import load_preprocessing
from internvl_edge.runtime.inputs.pictures.preprocess import Preprocessing

_VECTORS = "calibration/vectors.safetensors"
_SMOOTHING = QLLAMA_BLOCK + ".self_attn.o_proj.smoothing"


class BlockRunner(Protocol):
    """A model that runs its graphs block by block and passes their values to an observer."""

    @property
    def path(self) -> Path:
        """Path of the bundle or checkpoint."""
        ...

    @property
    def precision(self) -> str:
        """Name of the precision that the model computes in."""
        ...

    @property
    def model(self) -> ModelInfo:
        """Sizes of the model, as a manifest describes them."""
        ...

    @property
    def pictures(self) -> Preprocessing:
        """Preprocessing of pictures."""
        ...

    @property
    def rows(self) -> Mapping[str, GraphRow]:
        """Name -> row of the table for each graph that the model can run."""
        ...

    @property
    def graphs(self) -> tuple[str, ...]:
        """Names of the graphs that the model can run."""
        ...

    @property
    def tokenizer_file(self) -> Path | None:
        """Path of the tokenizer, or None if the model has none."""
        ...

    @property
    def cache_factors(self) -> Mapping[str, np.ndarray]:
        """Cache -> factors ``[H, 1, D]`` by which its values are smaller than those of the checkpoint."""
        ...

    def input_shapes(self, graph: str) -> Mapping[str, Shape]:
        """Return the name and the shape of each input of `graph`, in order."""
        ...

    def table_rows(self, ids: np.ndarray) -> np.ndarray:
        """Return rows of the table of token embeddings in fp32, ``[B, n, H]`` for ids ``[B, n]``."""
        ...

    def blocks(self, graph: str) -> tuple[str, ...]:
        """Return the module paths of the blocks of `graph`, in order."""
        ...

    def run(self, graph: str, inputs: Mapping[str, np.ndarray], observe: Observe) -> None:
        """Run `graph` block by block, and pass values to `observe`."""
        ...


class BundleRunner:
    """A bundle on ONNX Runtime.

    Raises:
        BundleError: there is no bundle, or a digest does not match.
    """

    def __init__(self, path: Path) -> None:
        self._bundle = Bundle.open(path)
        self._opened: dict[str, OnnxBlocks] = {}
        self.path = path
        self.precision = self._bundle.manifest.precision
        self.model = self._bundle.manifest.model
        self.pictures = load_preprocessing(self._bundle)
        self.graphs = tuple(self._bundle.manifest.graphs)
        described = self._bundle.manifest.graphs
        self.rows = {name: row for name in self.graphs if (row := row_with_role(described[name].use.role)) is not None}
        tokenizer = path / "tokenizer.model"
        self.tokenizer_file = tokenizer if tokenizer.exists() else None

    @property
    def accepted_config(self) -> tuple[str, ...]:
        """Unknown fields of the checkpoint's files that were accepted at the export."""
        return self._bundle.manifest.accepted_config

    @property
    def feature_layers(self) -> tuple[int, ...]:
        """Indexes of blocks whose patch maps are outputs of a graph."""
        names = [output.name for graph in self._bundle.manifest.graphs.values() for output in graph.outputs]
        return tuple(int(name.removeprefix("feature_")) for name in names if name.startswith("feature_"))

    @cached_property
    def cache_factors(self) -> Mapping[str, np.ndarray]:
        """Factors ``[H, 1, D]`` that smoothing moved from the cached values into ``o_proj``; they are powers of two."""
        file, model = self.path / _VECTORS, self.model
        if not file.exists() or model.text is None:
            return {}
        names = {f"{layer}.value": _SMOOTHING.format(layer) for layer in range(model.text.layers)}
        with safe_open(file, framework="numpy") as vectors:
            stored = set(vectors.keys())
            return {
                cache: vectors.get_tensor(name).reshape(model.text.heads, 1, -1)
                for cache, name in names.items()
                if name in stored
            }

    def input_shapes(self, graph: str) -> Mapping[str, Shape]:
        """Return the name and the shape of each input of `graph`, in order."""
        return {spec.name: spec.shape for spec in self._bundle.manifest.graphs[graph].inputs}

    def table_rows(self, ids: np.ndarray) -> np.ndarray:
        """Return rows of the table of token embeddings in fp32, ``[B, n, H]`` for ids ``[B, n]``."""
        return EmbeddingTable(self._bundle).rows(ids).astype(np.float32)

    def blocks(self, graph: str) -> tuple[str, ...]:
        """Return the module paths of the blocks of `graph`, in order."""
        return self._open(graph).blocks

    def run(self, graph: str, inputs: Mapping[str, np.ndarray], observe: Observe) -> None:
        """Run `graph` on ONNX Runtime, and pass values to `observe`."""
        self._open(graph).run(inputs, observe)

    def _open(self, graph: str) -> OnnxBlocks:
        if graph not in self._opened:
            self._opened[graph] = OnnxBlocks(self._bundle.graph_file(graph))
        return self._opened[graph]


class CheckpointRunner:
    """A checkpoint in torch in fp32, with the picture size and feature maps of a bundle.

    Raises:
        EdgeError: there is no valid checkpoint, or it cannot take pictures of this size.
    """

    def __init__(
        self,
        path: Path,
        other: BundleRunner,
        accept: Sequence[str],
        state_dict: str | None,
    ) -> None:
        checkpoint = open_checkpoint(path, accept=accept, state_dict=state_dict, language=needs_language(other.graphs))
        require_tensors(checkpoint.tensors, stored_shapes(checkpoint.config))
        self._config = cut_for(at_image_size(checkpoint.config, other.model.vision.image_size), other.graphs)
        self._sources = weight_sources(checkpoint.tensors, self._config)
        self._fetch = fetch_from(self._sources)
        self._layers = other.feature_layers
        self.path = path
        self.precision = "fp32 in torch"
        self.cache_factors: Mapping[str, np.ndarray] = {}
        self.model = model_info(self._config)
        self.pictures = self._config.pictures
        self.rows = graph_rows(self._config)
        self.graphs = tuple(self.rows)
        self.tokenizer_file = checkpoint.tokenizer_file

    def input_shapes(self, graph: str) -> Mapping[str, Shape]:
        """Return the name and the shape of each input of `graph`, in order."""
        return self.rows[graph].input_shapes(self._config)

    def table_rows(self, ids: np.ndarray) -> np.ndarray:
        """Return rows of the table of token embeddings in fp32, ``[B, n, H]`` for ids ``[B, n]``."""
        return table_rows(self._sources[EMBEDDING], ids)

    def blocks(self, graph: str) -> tuple[str, ...]:
        """Return the module paths of the blocks of `graph`, in order."""
        return torch_blocks(graph, self._config, self._layers)

    def run(self, graph: str, inputs: Mapping[str, np.ndarray], observe: Observe) -> None:
        """Run `graph` in torch, and pass values to `observe`."""
        run_torch_blocks(graph, self._config, inputs, self._fetch, self._layers, observe)


def open_reference(
    path: Path, other: BundleRunner, accept: Sequence[str] = (), state_dict: str | None = None
) -> BundleRunner | CheckpointRunner:
    """Open the reference that `other` is compared with: a bundle if `path` has a manifest, otherwise a checkpoint.

    Unknown fields of a checkpoint are accepted if `accept` names them or they were accepted at the export of `other`.
    """
    if (path / "manifest.json").exists():
        return BundleRunner(path)
    accepted = (*other.accepted_config, *accept)
    return CheckpointRunner(path, other, accepted, state_dict)
