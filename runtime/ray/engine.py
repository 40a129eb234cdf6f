"""Bulk embedding on a Ray cluster: Ray Data streams chunks of inputs through workers with a session each, in order.

If a node fails, Ray computes its chunks again on another. The driver writes the shards, so nodes only read the bundle
and the inputs.
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
"""Inputs of a chunk, rounded up to a multiple of the batch, as the rows of a shard are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RayOptions:
    """Workers and their resources on a cluster."""

    workers: int | None = None
    """Number of workers; None: as many as fit on the cluster's GPUs, or on its CPUs if workers use no GPU."""
    backend: str = "auto"
    threads: int = 1
    """Number of CPUs of a worker: they decode, and compute if it has no GPU."""
    bf16: bool = False
    """Whether a processor with bf16 units may compute in bf16."""
    gpus: float = 0
    """Number of GPUs of a worker; 0.5: two workers share one."""
    max_pixels: int | None = None
    """Largest number of pixels in one picture; 0: no limit; None: the default."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: Values are out of their ranges.
        """
        if (self.workers is not None and self.workers < 1) or self.threads < 1 or not self.gpus >= 0:
            raise InputError(
                f"ray: workers {self.workers}, threads {self.threads}, gpus {self.gpus}; give 1 or more, gpus from 0"
            )


class RayEngine:
    """An engine on the cluster that `RAY_ADDRESS` names, or on a new one of this machine alone.

    Raises:
        BackendError: Ray is not installed, or the cluster does not answer.
    """

    def __init__(self, bundle: Bundle, options: RayOptions) -> None:
        self._bundle, self._options = bundle, options
        self._ray = _connected()

    def backend(self, kind: Kind) -> str:
        """Return the backend option, as each worker chooses the backend of its node."""
        return described(self._options.backend, self._options.bf16)

    def pictures(self, pictures: Sequence[SourcePicture], options: EmbedOptions) -> Compute:
        """Return a function that sends workers the names of pictures, which they read themselves."""
        return _Streamed(self, "image", pictures, options)

    def texts(self, texts: Sequence[str | UnusableText], options: EmbedOptions) -> Compute:
        """Return a function that sends workers texts."""
        return _Streamed(self, "text", texts, options)

    def parts(self, kind: Kind, chunks: Sequence[Sequence[Any]], options: EmbedOptions) -> Generator[Part, None, None]:
        """Yield the features of all chunks, in order.

        Raises:
            EdgeError: A worker failed with this error.
        """
        data = self._ray.data
        context = data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        settings = _WorkerSettings(
            folder=Path.cwd(),
            bundle=self._bundle.path.resolve(),
            digest=sha256_file(self._bundle.path / "manifest.json"),
            kind=kind,
            options=replace(options, workers=self._options.threads),
            cluster=self._options,
        )
        rows = [{"job": pickle.dumps((settings, chunk))} for chunk in chunks]
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
        """Return the number of workers, at most the number of chunks."""
        options, has = self._options, self._ray.cluster_resources()
        fit = has.get("GPU", 0) // options.gpus if options.gpus else has.get("CPU", 0) // options.threads
        if fit < 1:
            raise BackendError(
                f"ray: no node for a worker of {options.threads} CPUs and {options.gpus} GPUs; the cluster has"
                f" {has.get('CPU', 0):g} and {has.get('GPU', 0):g}; lower --threads or --gpus"
            )
        return min(int(fit) if options.workers is None else options.workers, chunks)


class _Streamed:
    """The function that computes features of inputs, given by their indices, on the cluster."""

    def __init__(self, engine: RayEngine, kind: Kind, inputs: Sequence[Any], options: EmbedOptions) -> None:
        self._engine, self._kind, self._inputs, self._options = engine, kind, inputs, options

    def __call__(self, inputs: Sequence[int]) -> Generator[Part, None, None]:
        size = -(-_CHUNK_ROWS // self._options.batch_size) * self._options.batch_size
        ranges = [inputs[start : start + size] for start in range(0, len(inputs), size)]
        if ranges:
            chunks = [[self._inputs[index] for index in chunk] for chunk in ranges]
            yield from self._engine.parts(self._kind, chunks, self._options)


@dataclass(frozen=True, slots=True, kw_only=True)
class _WorkerSettings:
    """The settings that every worker gets."""

    folder: Path
    """Working directory of the driver, to which relative paths of inputs refer."""
    bundle: Path
    digest: str
    kind: Kind
    options: EmbedOptions
    cluster: RayOptions


class _Worker:
    """One session, which the first chunk opens: arguments of Ray's constructors are lost with their node."""

    def __init__(self) -> None:
        self._model: InternVL | None = None

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        """Return the features of a chunk, or an error for the driver to raise: Ray would retry a raised one forever."""
        settings, chunk = pickle.loads(row["job"])
        try:
            self._model = self._model or _opened(settings)
            engine = LocalEngine(self._model)
            compute = engine.pictures if settings.kind == "image" else engine.texts
            result: object = list(compute(chunk, settings.options)(range(len(chunk))))
        except EdgeError as error:
            result = error
        return {"parts": pickle.dumps(result)}


def _opened(settings: _WorkerSettings) -> InternVL:
    os.chdir(settings.folder)
    cluster, rows = settings.cluster, settings.options.batch_size
    if cluster.max_pixels is not None:
        limit_pixels(cluster.max_pixels or None)
    bundle = Bundle.open(settings.bundle)
    if sha256_file(settings.bundle / "manifest.json") != settings.digest:
        raise InputError(f"{settings.bundle}: another bundle on this node than on the driver; copy it there")
    session = SessionOptions(threads=cluster.threads, bf16=cluster.bf16, rows=rows)
    return InternVL(bundle, cluster.backend, rows, session)


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
