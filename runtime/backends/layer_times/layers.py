"""Times of the layers of a graph, and the modules of the checkpoint that the layers belong to."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from math import prod
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

_PATH = re.compile(r"[A-Za-z_]\w*(?:\.\w+)+|^[A-Za-z_]\w*(?=/)")
"""Words joined by dots, or a single word before a slash, which is in the graph's top level."""
UNMAPPED = "(made by the backend)"
"""Path of layers whose names contain no module path, such as fusions that the backend renamed."""


class LayerTensor(NamedTuple):
    """A tensor that a layer reads or writes."""

    name: str
    """Name, by which the output of one layer is the input of another."""
    dtype: str
    """Type, by the backend's name."""
    shape: tuple[int, ...]

    @property
    def values(self) -> int:
        """Return the number of values."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTime:
    """The times of one layer as the backend runs it."""

    name: str
    op: str
    """Kind of the layer, by the backend's name."""
    times_ms: tuple[float, ...]
    """Milliseconds of each run."""
    tactic: str = ""
    """Name of the kernel; empty where the backend does not report it."""
    inputs: tuple[LayerTensor, ...] = ()
    """Tensors from other layers or the caller; empty where the backend does not report them."""
    weights: tuple[LayerTensor, ...] = ()
    """Inputs that are constants of the graph."""
    outputs: tuple[LayerTensor, ...] = ()

    @property
    def kind(self) -> str:
        """Return the kind of the layer with its kernel, as text."""
        return f"{self.op} ({self.tactic})" if self.tactic else self.op

    @property
    def path(self) -> str:
        """Return the module path, or `UNMAPPED`."""
        return module_path(self.name)

    @property
    def total_ms(self) -> float:
        """Return the sum over all runs."""
        return float(sum(self.times_ms))

    @property
    def mean_ms(self) -> float:
        """Return the mean of one run."""
        return float(np.mean(self.times_ms))

    @property
    def median_ms(self) -> float:
        """Return the median of one run."""
        return float(np.median(self.times_ms))


@runtime_checkable
class LayerTimes(Protocol):
    """A session that can measure its layers, in separate runs, since measuring takes time."""

    def layer_times(self, inputs: Mapping[str, np.ndarray], runs: int) -> list[LayerTime]:
        """Return the layers in the order in which they run, after `runs` runs on `inputs`."""
        ...


@runtime_checkable
class LayerInfo(Protocol):
    """A session that can describe its layers as TensorRT's engine inspector does."""

    def layer_info(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
        """Return ``{"Layers": [...], "Bindings": [...]}``, with the shapes that a run on `inputs` has."""
        ...


def module_path(name: str) -> str:
    """Return the module path in a layer's name; for several paths, as in a fusion, the part that they share."""
    paths = [match.split(".") for match in _PATH.findall(name)]
    if not paths:
        return UNMAPPED
    shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))
    return ".".join(parts[0] for parts in shared) or UNMAPPED


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleTime:
    """The sum of the times of all layers of one module."""

    path: str
    mean_ms: float
    share: float
    layers: int
    ops: tuple[str, ...]


def module_times(layers: Sequence[LayerTime]) -> list[ModuleTime]:
    """Return the time of each module, the longest first."""
    total = sum(layer.mean_ms for layer in layers)
    groups: dict[str, list[LayerTime]] = {}
    for layer in layers:
        groups.setdefault(layer.path, []).append(layer)
    modules = [
        ModuleTime(
            path=path,
            mean_ms=(mean := sum(layer.mean_ms for layer in group)),
            share=mean / total if total > 0 else 0.0,
            layers=len(group),
            ops=tuple(dict.fromkeys(layer.kind for layer in group)),
        )
        for path, group in groups.items()
    ]
    return sorted(modules, key=lambda module: -module.mean_ms)
