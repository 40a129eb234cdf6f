"""A checkpoint in torch that calibration can run, with one block of weights in memory at a time."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch

from internvl_edge.calib.data.inputs import CalibrationInputs
from internvl_edge.calib.quantize import fake_quantizers
from internvl_edge.calib.recipes.recipe import Recipe
from internvl_edge.calib.sites import Site
from internvl_edge.export.blockwise.forward import TorchBlockwiseForward
from internvl_edge.export.blockwise.quantized import quantized_sources, with_cached_values
from internvl_edge.export.blockwise.sources import fetch_from, weight_sources
from internvl_edge.export.blockwise.torch_outputs import torch_outputs
from internvl_edge.export.checkpoint import Checkpoint
from internvl_edge.export.checkpoint.fingerprint import fingerprint
from internvl_edge.export.checkpoint.store.weight_sources import whole
from internvl_edge.export.models.config import ModelConfig
from internvl_edge.export.models.graphs import GraphRow, graph_rows
from internvl_edge.export.models.sites import block_of, model_sites
from internvl_edge.runtime.bundle.tokenizer import Tokenizer
from internvl_edge.runtime.inputs.pictures.preprocess import Preprocessing


class BlockwiseModel:
    """Implementation of `calib.model.CalibrationModel`; `config` has the picture size of this run."""

    def __init__(self, name: str, checkpoint: Checkpoint, config: ModelConfig) -> None:
        self.name = name
        self.config = config
        self.sources = weight_sources(checkpoint.tensors, config)
        reads = checkpoint.tokenizer_file is not None and config.vocabulary is not None
        self.tokenizer = Tokenizer(checkpoint.tokenizer_file) if reads and checkpoint.tokenizer_file else None
        self._checkpoint = checkpoint

    @cached_property
    def fingerprint(self) -> str:
        """Digest that identifies the checkpoint's weights and config, without the picture size."""
        return fingerprint(list(self._checkpoint.tensors.values()), self.config)

    @property
    def pictures(self) -> Preprocessing:
        """Preprocessing of pictures."""
        return self.config.pictures

    @property
    def vocabulary(self) -> int | None:
        """Size of the vocabulary; None if the model takes no texts."""
        return self.config.vocabulary

    @property
    def values_per_picture(self) -> int:
        """Number of values of the widest activation of one picture."""
        vision = self.config.vision
        return max(vision.tokens * vision.intermediate_size, vision.num_heads * vision.tokens**2)

    @property
    def graphs(self) -> tuple[str, ...]:
        """Graphs that the checkpoint has weights for, in the order in which they feed each other."""
        return tuple(self._rows)

    @cached_property
    def _rows(self) -> Mapping[str, GraphRow]:
        return graph_rows(self.config)

    @cached_property
    def blocks(self) -> Mapping[str, Sequence[Site]]:
        """Path of every block, in the order of the forward -> its sites: linears that may be quantized."""
        found: dict[str, list[Site]] = {}
        for site in model_sites(self.config):
            found.setdefault(block_of(site), []).append(site)
        return found

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Name of every weight -> its shape."""
        return {name: source.shape for name, source in self.sources.items()}

    def weight(self, name: str) -> torch.Tensor:
        """Return the weight `name` in fp32."""
        return whole(self.sources[name])

    def is_quantized(self, graph: str) -> bool:
        """Return whether `graph` has linears that may be quantized."""
        return self._rows[graph].quantized

    def sensitivity_output(self, graph: str) -> str | None:
        """Return the output on which the sensitivity of `graph` is measured."""
        return self._rows[graph].sensitivity_output

    def fewest_rows(self, graph: str, attention: str) -> int:
        """Return the fewest rows that an attention sees in a call: a picture's tokens, the queries, or one token."""
        if attention.endswith(".cross_attn"):
            return self.config.vision.tokens
        return self._rows[graph].fewest_rows(self.config)

    def blockwise_forward(
        self, inputs: CalibrationInputs, graphs: Sequence[str], compute: str
    ) -> TorchBlockwiseForward:
        """Return a forward at the first block; matrices are multiplied in the torch type named `compute`."""
        return TorchBlockwiseForward(
            self.config, fetch_from(self.sources), inputs, tuple(graphs), getattr(torch, compute)
        )

    def run(self, graph: str, inputs: Mapping[str, np.ndarray], recipe: Recipe | None) -> dict[str, np.ndarray]:
        """Return the outputs of `graph` from torch in fp32, with the fake quantization of `recipe` if there is one.

        `inputs` are those of the unquantized model, caches included.
        """
        if recipe is None:
            return torch_outputs(graph, self.config, inputs, fetch_from(self.sources))
        fetch, changed = fetch_from(quantized_sources(recipe, self.sources)), fake_quantizers(recipe, graph)
        return torch_outputs(graph, self.config, with_cached_values(recipe, inputs), fetch, (), changed)
