"""The messages between a server and its workers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from internvl_edge.runtime.serve.options import ServeOptions
from internvl_edge.runtime.serve.refusals import RefusalError
from internvl_edge.runtime.serve.requests import Parameter

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The first message to a worker: the bundle and graphs to open."""

    bundle: Path
    graphs: tuple[str, ...]
    options: ServeOptions


@dataclass(frozen=True, slots=True)
class Opened:
    """A worker's first message: its graphs are open and it takes jobs."""


@dataclass(frozen=True, slots=True)
class OpenFailed:
    """A worker's only message if it cannot open its graphs, with the reason."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One batch for a worker; each part belongs to another request."""

    id: int
    model: str
    parts: tuple[Arrays, ...]
    """Inputs of each part; the worker joins them on axis 0."""
    shared: Arrays
    """Inputs that all rows share."""
    parameters: Mapping[str, Parameter]
    outputs: tuple[str, ...] | None
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Cancel:
    """A request to drop a job, since its callers have left."""

    id: int


@dataclass(frozen=True, slots=True)
class Piece:
    """New text of one row of one part of a streamed job."""

    id: int
    part: int
    row: int
    text: str


@dataclass(frozen=True, slots=True)
class Done:
    """The last message about a job, also about a cancelled one."""

    id: int
    results: tuple[Arrays | RefusalError, ...]
    """Outputs of each part, or why it has none; the texts of a streamed job are not repeated."""
    stages: Mapping[str, float]
    """Stage -> its seconds."""
    seconds: float
    """Seconds that the worker computed it."""
