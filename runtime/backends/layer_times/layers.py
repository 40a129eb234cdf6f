"""How long each layer of a graph took, and to which module of the checkpoint it belongs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from math import prod
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

_PATH = re.compile(r"[A-Za-z_]\w*(?:\.\w+)+|^[A-Za-z_]\w*(?=/)")
"""Dotted words; or the single one in front of a slash, which is the graph's own."""
UNMAPPED = "(made by the backend)"
"""Layers whose name holds no module path, as a fusion that the backend named anew."""


class LayerTensor(NamedTuple):
    """What a layer reads or writes."""

    name: str
    """Equal where one layer reads what another wrote."""
    dtype: str
    """In the backend's words."""
    shape: tuple[int, ...]

    @property
    def values(self) -> int:
        """How many values it has."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTime:
    """One layer as the backend runs it."""

    name: str
    op: str
    """What kind of layer, in the backend's words."""
    times_ms: tuple[float, ...]
    """One for each run."""
    tactic: str = ""
    """Which kernel ran it, where the backend tells."""
    inputs: tuple[LayerTensor, ...] = ()
    """What other layers or the caller gave, where the backend tells."""
    weights: tuple[LayerTensor, ...] = ()
    """Inputs that are constants of the graph."""
    outputs: tuple[LayerTensor, ...] = ()

    @property
    def kind(self) -> str:
        """The kind of layer with its kernel, as people read it."""
        return f"{self.op} ({self.tactic})" if self.tactic else self.op

    @property
    def path(self) -> str:
        """The module path, or `UNMAPPED`."""
        return module_path(self.name)

    @property
    def total_ms(self) -> float:
        """Over all runs."""
        return float(sum(self.times_ms))

    @property
    def mean_ms(self) -> float:
        """Of one run."""
        return float(np.mean(self.times_ms))

    @property
    def median_ms(self) -> float:
        """Of one run."""
        return float(np.median(self.times_ms))


@runtime_checkable
class LayerTimes(Protocol):
    """A session that can tell its layers apart; the run is a separate one, since telling costs time."""

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
    """Return the module path that a layer's name holds; of several (a fusion) the part that they share."""
    paths = [match.split(".") for match in _PATH.findall(name)]
    if not paths:
        return UNMAPPED
    shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))
    return ".".join(parts[0] for parts in shared) or UNMAPPED


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleTime:
    """All layers of one module."""

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
