"""The interface of a model to calibration: its blocks, their linears, and functions that run its graphs."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from internvl_edge.calib.data.inputs import CalibrationInputs
from internvl_edge.calib.recipes.recipe import Recipe
from internvl_edge.calib.sites import Site
from internvl_edge.runtime.bundle.tokenizer import Tokenizer
from internvl_edge.runtime.inputs.pictures.preprocess import Preprocessing


class BlockObserver(Protocol):
    """Receives the activations of a block while samples pass through it, as a forward hook does."""

    def enter(self, graph: str, samples: int, valid: Tensor | None) -> None:
        """Begin a chunk of `samples` samples of `graph`.

        `valid` ``[B, n]`` is False for rows of padding; None: there is no padding.
        """

    def linear(self, path: str, x: Tensor) -> None:
        """Observe the input `x` ``[B, n, C]`` of the linear `path`."""

    def attention(self, path: str, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> None:
        """Observe the inputs q, k, v ``[B, H, n, D]`` of the attention `path`; `bias` is added to its scores."""

    def leave(self, path: str, x: Tensor) -> None:
        """Observe the output `x` ``[B, n, C]`` of block `path` for the chunk."""


class BlockwiseForward(Protocol):
    """A forward of all samples block by block, which can be stopped between two blocks and resumed there."""

    @property
    def blocks(self) -> Sequence[str]:
        """Module paths of the blocks, in the order of the forward."""
        ...

    @property
    def samples(self) -> Mapping[str, int]:
        """Graph -> number of samples that pass through it."""
        ...

    @property
    def position(self) -> int:
        """Number of blocks that are done."""
        ...

    @property
    def states(self) -> Mapping[str, Tensor]:
        """Residual stream of each graph at this position, by name, ``[B, n, C]``."""
        ...

    def resume(self, position: int, states: dict[str, Tensor]) -> None:
        """Continue at a position of an earlier forward on the same inputs, with its residual streams."""
        ...

    def step(self, observer: BlockObserver) -> str:
        """Run the next block on all samples, and return its path."""
        ...


class CalibrationModel(Protocol):
    """The interface through which quantization sees a model; the export implements it."""

    @property
    def name(self) -> str:
        """Name of the checkpoint as the user gave it."""
        ...

    @property
    def fingerprint(self) -> str:
        """Digest of weights and configuration, without the picture size."""
        ...

    @property
    def pictures(self) -> Preprocessing:
        """Preprocessing of pictures."""
        ...

    @property
    def tokenizer(self) -> Tokenizer | None:
        """Tokenizer of the checkpoint; None if it has none."""
        ...

    @property
    def vocabulary(self) -> int | None:
        """Number of token ids; None if the model takes no texts."""
        ...

    @property
    def values_per_picture(self) -> int:
        """Number of values in the widest activation of one picture."""
        ...

    @property
    def graphs(self) -> tuple[str, ...]:
        """Names of the graphs, each after those whose outputs it takes."""
        ...

    @property
    def blocks(self) -> Mapping[str, Sequence[Site]]:
        """Module path of every block, in the order of the forward -> its sites."""
        ...

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Name of every weight -> its shape."""
        ...

    def weight(self, name: str) -> Tensor:
        """Return the weight `name` in fp32."""
        ...

    def is_quantized(self, graph: str) -> bool:
        """Return whether `graph` has sites; ranges are measured for such graphs only."""
        ...

    def sensitivity_output(self, graph: str) -> str | None:
        """Return the output of `graph` whose SQNR is its sensitivity; None if the graph has no such output."""
        ...

    def fewest_rows(self, graph: str, attention: str) -> int:
        """Return the smallest number of key rows that an attention of `graph` can have in a call."""
        ...

    def blockwise_forward(self, inputs: CalibrationInputs, graphs: Sequence[str], compute: str) -> BlockwiseForward:
        """Return a forward before its first block, for the samples `inputs` and the graphs `graphs`.

        `compute` is the type of the matrix products, as torch names it.
        """
        ...

    def run(self, graph: str, inputs: Mapping[str, np.ndarray], recipe: Recipe | None) -> dict[str, np.ndarray]:
        """Return the outputs of `graph`, quantized as `recipe` says; None runs it as it is.

        `inputs` are those of the plain model, caches included.
        """
        ...
