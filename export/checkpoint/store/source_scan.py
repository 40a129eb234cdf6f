"""Scan the checkpoint's files in the background: compute their digests, and find NaN and infinity."""

from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from types import TracebackType

from internvl_edge.export.checkpoint.files.tensors import LazyTensor
from internvl_edge.export.checkpoint.required_tensors import non_finite
from internvl_edge.runtime.bundle.bundle import sha256_file

CHUNK_BYTES = 8 << 20
"""Size of a read: large enough for a disk to stream, small beside the memory of a block."""


@dataclass(frozen=True, slots=True)
class ScannedFile:
    """Result of the scan of one file."""

    bytes: int
    sha256: str
    bad: Mapping[str, int]
    """Tensor -> number of its values that are NaN or infinite."""


class SourceScan:
    """Background scan of files, to use in a ``with`` block; leaving the block stops it.

    It runs while graphs are traced: tracing is Python code, hashing and checking are native code beside it.
    """

    def __init__(self, tensors: Iterable[LazyTensor]) -> None:
        self._by_file: dict[Path, list[LazyTensor]] = {}
        for tensor in tensors:
            self._by_file.setdefault(tensor.file, []).append(tensor)
        self._stop = Event()
        self._pool = ThreadPoolExecutor(1)  # one thread, as tracing uses the other cores
        self._digests: dict[Path, Future[str]] = {}
        self._checks: dict[Path, Future[dict[str, int]]] = {}

    def __enter__(self) -> "SourceScan":
        """Start the scan of all files, in order."""
        for file, tensors in self._by_file.items():
            self._digests[file] = self._pool.submit(sha256_file, file)
            self._checks[file] = self._pool.submit(self._check, tensors)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop at the next tensor, and cancel what has not begun."""
        self._stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def result(self, file: Path) -> ScannedFile:
        """Return the result for `file`; wait for it if it is not scanned yet."""
        return ScannedFile(file.stat().st_size, self._digests[file].result(), self._checks[file].result())

    def _check(self, tensors: Iterable[LazyTensor]) -> dict[str, int]:
        bad: dict[str, int] = {}
        for tensor in tensors:
            if self._stop.is_set():
                break
            if count := sum(non_finite(values) for values in tensor.chunks(CHUNK_BYTES)):
                bad[tensor.name] = count
        return bad
