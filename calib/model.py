"""A model as calibration sees it: its blocks, the linears in them, and its graphs run on named arrays."""

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
    """Hears what passes through a block."""

    def enter(self, graph: str, samples: int, valid: Tensor | None) -> None:
        """A chunk of `samples` samples of `graph` comes; `valid` ``[B, n]`` tells rows from padding."""

    def linear(self, path: str, x: Tensor) -> None:
        """Linear `path` is about to be applied to `x` ``[B, n, C]``."""

    def attention(self, path: str, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> None:
        """Attention `path` is about to be applied to q, k, v ``[B, H, n, D]``."""

    def leave(self, path: str, x: Tensor) -> None:
        """The chunk leaves block `path` as `x` ``[B, n, C]``."""


class BlockwiseForward(Protocol):
    """All samples on their way through the blocks; it can be stopped between two blocks, and gone on with."""

    @property
    def blocks(self) -> Sequence[str]:
        """Paths of the blocks that the samples pass, in order."""
        ...

    @property
    def samples(self) -> Mapping[str, int]:
        """Graph -> how many samples pass."""
        ...

    @property
    def position(self) -> int:
        """How many blocks are behind."""
        ...

    @property
    def states(self) -> Mapping[str, Tensor]:
        """The residual streams at this position."""
        ...

    def resume(self, position: int, states: dict[str, Tensor]) -> None:
        """Go to a place where an earlier walk on the same inputs has been."""
        ...

    def step(self, observer: BlockObserver) -> str:
        """Take all samples through the next block; return its path."""
        ...


class CalibrationModel(Protocol):
    """What quantization has to know of a model; whoever has one in hand implements it."""

    @property
    def name(self) -> str:
        """What users call it."""
        ...

    @property
    def fingerprint(self) -> str:
        """Its identity: weights and shape, but for the picture size."""
        ...

    @property
    def pictures(self) -> Preprocessing:
        """What becomes of pictures."""
        ...

    @property
    def tokenizer(self) -> Tokenizer | None:
        """Its tokenizer, if it has one."""
        ...

    @property
    def vocabulary(self) -> int | None:
        """Token ids that it knows; None if it takes no texts."""
        ...

    @property
    def values_per_picture(self) -> int:
        """Values of the widest activation of one picture."""
        ...

    @property
    def graphs(self) -> tuple[str, ...]:
        """Graphs that it can run, in the order in which they feed each other."""
        ...

    @property
    def blocks(self) -> Mapping[str, Sequence[Site]]:
        """Path of every block, in the order of the forward -> its linears that may be quantized."""
        ...

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Name of every weight -> its axes."""
        ...

    def weight(self, name: str) -> Tensor:
        """Return a weight in fp32."""
        ...

    def is_quantized(self, graph: str) -> bool:
        """Return whether `graph` has linears that may be quantized: only then anything of it is measured."""
        ...

    def sensitivity_output(self, graph: str) -> str | None:
        """Return the output by which the damage of `graph` is told; None if it is told by no output of its own."""
        ...

    def fewest_rows(self, graph: str, attention: str) -> int:
        """Return the fewest rows that an attention of `graph` sees in a call."""
        ...

    def blockwise_forward(self, inputs: CalibrationInputs, graphs: Sequence[str], compute: str) -> BlockwiseForward:
        """Return the samples in front of the first block; `compute` is the type of matrix products, as torch names it.

        Samples pass the graphs of `graphs` only.
        """
        ...

    def run(self, graph: str, inputs: Mapping[str, np.ndarray], recipe: Recipe | None) -> dict[str, np.ndarray]:
        """Return the outputs of `graph`, quantized as `recipe` says; None runs it as it is.

        `inputs` are those of the plain model, caches included.
        """
        ...
