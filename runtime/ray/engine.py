"""Bulk embedding on a Ray cluster: Ray Data streams chunks of inputs through sessions, one a worker, back in order.

Chunks are what a node loses when it dies: Ray computes them again elsewhere. The driver writes the shards, so that
nodes need to read the bundle and the inputs, and to write nothing.
"""

import logging
import os
import pickle
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from internvl_edge.runtime.backends.session import SessionOptions
from internvl_edge.runtime.bundle.bundle import Bundle, sha256_file
from internvl_edge.runtime.embed.compute import LocalEngine, described
from internvl_edge.runtime.embed.options import EmbedOptions
from internvl_edge.runtime.embed.outputs import Kind
from internvl_edge.runtime.embed.shards import Compute, Part
from internvl_edge.runtime.errors import BackendError, EdgeError, InputError
from internvl_edge.runtime.inputs.pictures.decode import limit_pixels
from internvl_edge.runtime.inputs.pictures.source import SourcePicture
from internvl_edge.runtime.inputs.read import UnusableText
from internvl_edge.runtime.model import InternVL

_CHUNK_ROWS = 256
"""About: a multiple of the batch, as a shard is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RayOptions:
    """What is taken of a cluster."""

    workers: int | None = None
    """Sessions; None: as many as its GPUs, or else its CPUs, suffice for."""
    backend: str = "auto"
    threads: int = 1
    """CPUs of a worker: they decode, and compute where it has no GPU."""
    bf16: bool = False
    """A processor with units for bf16 may compute in it."""
    gpus: float = 0
    """Of a worker; 0.5: two share one."""
    max_pixels: int | None = None
    """That a picture may have; 0: any number; None: the default."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: values out of their range.
        """
        if (self.workers is not None and self.workers < 1) or self.threads < 1 or not self.gpus >= 0:
            raise InputError(
                f"ray: workers {self.workers}, threads {self.threads}, gpus {self.gpus}; give 1 or more, gpus from 0"
            )


class RayEngine:
    """A cluster: the one that `RAY_ADDRESS` names, or one of this machine alone, which starts now.

    Raises:
        BackendError: Ray is not installed, or the cluster does not answer.
    """

    def __init__(self, bundle: Bundle, options: RayOptions) -> None:
        self._bundle, self._options = bundle, options
        self._ray = _connected()

    def backend(self, kind: Kind) -> str:
        """Return what the workers were told: each chooses for its node."""
        return described(self._options.backend, self._options.bf16)

    def pictures(self, pictures: Sequence[SourcePicture], options: EmbedOptions) -> Compute:
        """Return what sends pictures by name; workers read them."""
        return _Streamed(self, "image", pictures, options)

    def texts(self, texts: Sequence[str | UnusableText], options: EmbedOptions) -> Compute:
        """Return what sends texts."""
        return _Streamed(self, "text", texts, options)

    def parts(self, kind: Kind, chunks: Sequence[Sequence[Any]], options: EmbedOptions) -> Generator[Part, None, None]:
        """Yield the parts of all chunks, in order.

        Raises:
            EdgeError: what a worker found wrong.
        """
        data = self._ray.data
        context = data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        told = _Told(
            folder=Path.cwd(),
            bundle=self._bundle.path.resolve(),
            digest=sha256_file(self._bundle.path / "manifest.json"),
            kind=kind,
            options=replace(options, workers=self._options.threads),
            cluster=self._options,
        )
        rows = [{"job": pickle.dumps((told, chunk))} for chunk in chunks]
        answers = data.from_items(rows, override_num_blocks=len(rows)).map(
            _Worker,
            concurrency=self._workers(len(rows)),
            num_cpus=self._options.threads,
            num_gpus=self._options.gpus or None,
        )
        for answer in answers.iter_rows():
            result = pickle.loads(answer["parts"])
            if isinstance(result, EdgeError):
                raise result
            yield from result

    def _workers(self, chunks: int) -> int:
        """Return how many sessions there are, never more than there are chunks."""
        options, has = self._options, self._ray.cluster_resources()
        fit = has.get("GPU", 0) // options.gpus if options.gpus else has.get("CPU", 0) // options.threads
        if fit < 1:
            raise BackendError(
                f"ray: no node for a worker of {options.threads} CPUs and {options.gpus} GPUs; the cluster has"
                f" {has.get('CPU', 0):g} and {has.get('GPU', 0):g}; lower --threads or --gpus"
            )
        return min(int(fit) if options.workers is None else options.workers, chunks)


class _Streamed:
    """The features of inputs by their indices."""

    def __init__(self, engine: RayEngine, kind: Kind, inputs: Sequence[Any], options: EmbedOptions) -> None:
        self._engine, self._kind, self._inputs, self._options = engine, kind, inputs, options

    def __call__(self, inputs: Sequence[int]) -> Generator[Part, None, None]:
        size = -(-_CHUNK_ROWS // self._options.batch_size) * self._options.batch_size
        ranges = [inputs[start : start + size] for start in range(0, len(inputs), size)]
        if ranges:
            chunks = [[self._inputs[index] for index in chunk] for chunk in ranges]
            yield from self._engine.parts(self._kind, chunks, self._options)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """What every worker is told."""

    folder: Path
    """Of the driver: relative paths of inputs mean what they mean there."""
    bundle: Path
    digest: str
    kind: Kind
    options: EmbedOptions
    cluster: RayOptions


class _Worker:
    """One session, opened by the first chunk: what Ray's constructors are given does not outlive a lost node."""

    def __init__(self) -> None:
        self._model: InternVL | None = None

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        """Return the parts of a chunk, or what is wrong, which the driver raises: Ray would retry it for ever."""
        told, chunk = pickle.loads(row["job"])
        try:
            self._model = self._model or _opened(told)
            engine = LocalEngine(self._model)
            compute = engine.pictures if told.kind == "image" else engine.texts
            result: object = list(compute(chunk, told.options)(range(len(chunk))))
        except EdgeError as error:
            result = error
        return {"parts": pickle.dumps(result)}


def _opened(told: _Told) -> InternVL:
    os.chdir(told.folder)
    if told.cluster.max_pixels is not None:
        limit_pixels(told.cluster.max_pixels or None)
    bundle = Bundle.open(told.bundle)
    if sha256_file(told.bundle / "manifest.json") != told.digest:
        raise InputError(f"{told.bundle}: another bundle on this node than on the driver; copy it there")
    session = SessionOptions(threads=told.cluster.threads, bf16=told.cluster.bf16, rows=told.options.batch_size)
    return InternVL(bundle, told.cluster.backend, told.options.batch_size, session)


def _connected() -> ModuleType:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise BackendError("engine ray: not installed; pip install 'internvl-edge[ray]'") from error
    if not ray.is_initialized():
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        except (ConnectionError, ValueError) as error:
            raise BackendError(f"engine ray: no cluster ({error}); check RAY_ADDRESS") from error
    return ray
