"""Batches of pixel values, decoded and scaled in threads while the caller computes on the batch before."""

import os
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.pictures.arguments import Readable
from internvl_edge.runtime.inputs.pictures.decode import decode
from internvl_edge.runtime.inputs.pictures.findings import reason
from internvl_edge.runtime.inputs.pictures.preprocess import (
    Geometry,
    Preprocessing,
    require_geometry,
    write_pixel_values,
)
from internvl_edge.runtime.stages import DECODE_IMAGE, PREPROCESS, UNMEASURED, Stages


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """Settings of preprocessing and batching."""

    preprocessing: Preprocessing
    geometry: Geometry = "squash"
    batch_size: int = 32
    workers: int | None = None
    """Number of threads that decode; None: one for each core, at most 8."""
    ahead: int = 2
    """Number of batches that are prepared ahead of the caller's; it bounds the memory."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: A number is below 1, or the geometry is not known.
        """
        require_geometry(self.geometry)
        if min(self.batch_size, self.threads, self.ahead) < 1:
            found = f"batch_size {self.batch_size}, workers {self.threads}, ahead {self.ahead}"
            raise InputError(f"batches: {found}; give 1 or more of each")

    @property
    def threads(self) -> int:
        """Return the number of threads that decode."""
        return min(os.cpu_count() or 1, 8) if self.workers is None else self.workers


@dataclass(frozen=True, slots=True)
class Batch:
    """The pixel values of consecutive pictures."""

    start: int
    """Index of the first picture."""
    count: int
    """Number of pictures, unreadable ones included."""
    pixel_values: np.ndarray
    """Pixel values of the readable pictures, in order: fp32 ``[n, 3, S, S]``; the next batch may reuse the memory."""
    bad: tuple[tuple[int, str], ...]
    """Index and reason of each unreadable picture."""


def batches(
    pictures: Sequence[Readable], options: BatchOptions, stages: Stages = UNMEASURED
) -> Generator[Batch, None, None]:
    """Yield batches of the pictures in order, and prepare at most `options.ahead` batches beyond the yielded one.

    A batch's `pixel_values` are valid until the next batch is requested. An unreadable picture is listed in `bad`; the
    others of its batch are not affected. Closing the iterator early stops the threads.
    """
    size = options.preprocessing.image_size
    rows = min(options.batch_size, len(pictures))
    free = [np.empty((rows, 3, size, size), np.float32) for _ in range(options.ahead + 1)]
    starts = deque(range(0, len(pictures), options.batch_size))
    pending: deque[_Filling] = deque()
    pool = ThreadPoolExecutor(options.threads, thread_name_prefix="pictures")
    try:
        while starts or pending:
            while starts and free:
                pending.append(_submit(pool, pictures, starts.popleft(), free.pop(), options, stages))
            filling = pending.popleft()
            yield filling.batch()
            free.append(filling.pixels)
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Filling:
    """A batch that threads are filling."""

    start: int
    count: int
    pixels: np.ndarray
    parts: "tuple[Future[list[tuple[int, str]]], ...]"

    def batch(self) -> Batch:
        """Wait for the threads, and return the batch."""
        bad = tuple(finding for part in self.parts for finding in part.result())
        pixels = self.pixels[: self.count]
        if bad:
            kept = np.ones(self.count, bool)
            kept[[index - self.start for index, _ in bad]] = False
            pixels = pixels[kept]
        return Batch(self.start, self.count, pixels, bad)


def _submit(
    pool: ThreadPoolExecutor,
    pictures: Sequence[Readable],
    start: int,
    pixels: np.ndarray,
    options: BatchOptions,
    stages: Stages,
) -> _Filling:
    """Start to fill one batch; each thread gets a run of pictures, since a task for each picture costs too much."""
    count = min(options.batch_size, len(pictures) - start)
    run = -(-count // options.threads)
    parts = tuple(
        pool.submit(_fill, pictures, start, range(first, min(first + run, count)), pixels, options, stages)
        for first in range(0, count, run)
    )
    return _Filling(start, count, pixels, parts)


def _fill(
    pictures: Sequence[Readable], start: int, rows: range, pixels: np.ndarray, options: BatchOptions, stages: Stages
) -> list[tuple[int, str]]:
    """Write the pixel values of some rows of a batch; return the index and reason of each unreadable picture."""
    bad = []
    for row in rows:
        try:
            with stages.stage(DECODE_IMAGE):
                picture = decode(pictures[start + row].content())
            with stages.stage(PREPROCESS):
                write_pixel_values(picture, options.preprocessing, options.geometry, pixels[row])
        except Exception as error:  # Pillow's decoders let all kinds of errors of their parsers pass
            bad.append((start + row, reason(error)))
    return bad
