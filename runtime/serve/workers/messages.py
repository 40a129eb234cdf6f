"""What a server and its workers tell each other."""

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
    """The first message to a worker: what to open."""

    bundle: Path
    graphs: tuple[str, ...]
    options: ServeOptions


@dataclass(frozen=True, slots=True)
class Opened:
    """A worker's first message: it takes jobs."""


@dataclass(frozen=True, slots=True)
class OpenFailed:
    """A worker's only message: why it takes none."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One batch; its parts belong to different requests."""

    id: int
    model: str
    parts: tuple[Arrays, ...]
    """Inputs of each part, joined on axis 0."""
    shared: Arrays
    """Inputs that are one for all rows."""
    parameters: Mapping[str, Parameter]
    outputs: tuple[str, ...] | None
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Cancel:
    """Nobody waits for this job any more."""

    id: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that was added to one row of one part of a streamed job."""

    id: int
    part: int
    row: int
    text: str


@dataclass(frozen=True, slots=True)
class Done:
    """The last message about a job, cancelled ones included."""

    id: int
    results: tuple[Arrays | RefusalError, ...]
    """One a part; of a streamed job the whole texts are not repeated."""
    stages: Mapping[str, float]
    """Seconds by stage."""
    seconds: float
    """From when the worker turned to it until it was done."""
