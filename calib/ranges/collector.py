"""Collect the statistics of every tensor of one block that may be quantized, while samples pass through the block."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from internvl_edge.calib.ranges.observer import Observer, Statistics
from internvl_edge.calib.sites import Site

KEPT_ROWS = 256
"""Number of rows that are kept of the input of each site.

They suffice to rank quantizations by the error of the output, and take 11 MB for a block of a 6 B tower.
"""
PROBABILITY_SAMPLES = 4
"""Number of samples of a chunk whose probabilities are observed; they lie in [0, 1], so that their range is known."""
RESIDUAL = "residual"
ATTENTION_TENSORS = ("q", "k", "v", "probabilities")

Key = tuple[str, str]
"""Graph, and name of a tensor: of a site, ``<attention>.q``, or ``<block>.residual``."""


@dataclass
class Collector:
    """Observer of one block, with statistics for each graph: a shared weight has other activations in each graph."""

    sites: Iterable[Site]
    samples: Mapping[str, int]
    """Graph -> number of samples that will pass."""
    observers: dict[Key, Observer] = field(default_factory=dict)
    _graph: str = ""
    _entered: int = 0
    _valid: Tensor | None = None

    def __post_init__(self) -> None:
        """Index the sites by their first linear, whose input is observed."""
        self._site_by_linear = {site.linears[0]: site for site in self.sites}

    def enter(self, graph: str, samples: int, valid: Tensor | None) -> None:
        """Set the graph, the number of samples and the padding of the chunk that follows."""
        self._graph, self._entered, self._valid = graph, samples, valid

    def linear(self, path: str, x: Tensor) -> None:
        """Observe the input of the site whose first linear is `path`."""
        if path in self._site_by_linear:
            self._observe(path, self._rows(x), KEPT_ROWS)

    def attention(self, path: str, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> None:
        """Observe q, k and v per channel, and the probabilities of a few samples per head."""
        for name, tensor in (("q", q), ("k", k[:, :, -q.shape[2] :] if self._masks(q) else k), ("v", v)):
            self._observe(f"{path}.{name}", self._rows(tensor.transpose(1, 2).flatten(2)), 0)
        few = slice(None, None, -(-q.shape[0] // PROBABILITY_SAMPLES))
        scores = q[few].float() @ k[few].float().transpose(-1, -2) / math.sqrt(q.shape[-1])
        scores = scores if bias is None else scores + (bias[few] if bias.shape[0] > 1 else bias).float()
        probabilities = torch.softmax(scores, dim=-1)
        self._observe(f"{path}.probabilities", probabilities.permute(0, 2, 3, 1).flatten(0, 2), 0)

    def leave(self, path: str, x: Tensor) -> None:
        """Observe the residual stream after the block."""
        self._observe(f"{path}.{RESIDUAL}", self._rows(x), 0)

    def statistics(self) -> dict[Key, Statistics]:
        """Return the statistics of every tensor."""
        return {key: observer.statistics() for key, observer in self.observers.items()}

    def _observe(self, name: str, rows: Tensor, kept: int) -> None:
        key = self._graph, name
        if key not in self.observers:
            self.observers[key] = Observer(f"{self._graph}: {name}", kept / self.samples[self._graph])
        self.observers[key].observe(rows, self._entered)

    def _rows(self, x: Tensor) -> Tensor:
        """Return ``[B, n, C]`` as rows ``[R, C]``, without the padding if n is the number of rows of the samples."""
        if self._valid is not None and x.shape[:2] == self._valid.shape:
            return x[self._valid]
        return x.flatten(0, -2)

    def _masks(self, q: Tensor) -> bool:
        return self._valid is not None and (q.shape[0], q.shape[2]) == tuple(self._valid.shape)
