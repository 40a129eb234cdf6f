"""The settings of a server's engine."""

import os
from dataclasses import dataclass

from internvl_edge.runtime.backends import SessionOptions, require_backend
from internvl_edge.runtime.errors import InputError

MAX_NEW_TOKENS = 256
ANSWER_TOKENS = 1024
"""Most tokens of an answer whose request sets no limit, as the model cards use it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """How a bundle is opened, batched and limited when it is served."""

    backend: str = "auto"
    graphs: tuple[str, ...] | None = None
    """Names of the graphs to open; tasks are served that need no other graph. None: all graphs of the bundle."""
    workers: int = 1
    """Number of processes, each with a model of its own."""
    threads: int | None = None
    """Number of threads of a CPU backend in each worker; None: the cores are divided evenly among several workers, and
    one worker opens its graphs as `SessionOptions` without a number does."""
    bf16: bool = False
    """Whether a processor with bf16 units may compute in bf16."""
    max_batch: int = 16
    """Largest number of rows in one batch."""
    max_delay_ms: float = 2.0
    """Longest time that an idle worker waits for more requests to join a batch."""
    queue: int = 256
    """Largest number of requests that may wait."""
    deadline_ms: float = 500.0
    """Deadline of a request that sets none."""
    max_rows: int = 1024
    """Largest number of pictures or texts in one request."""
    max_body_bytes: int = 64 << 20
    """Largest body of one request, after decompression."""
    max_new_tokens: int = MAX_NEW_TOKENS
    """Largest number of tokens in one caption: each takes a position in the decoder's cache until the caption ends."""
    max_answer_tokens: int | None = None
    """Largest number of tokens in one answer of a chat model; None: what its context has room for."""
    answer_deadline_s: float = 300.0
    """Deadline of an answer of a chat model whose request sets none; of a streamed one, of its first piece."""
    max_picture_bytes: int = 16 << 20
    """Largest file of one picture for a chat model."""
    max_pixels: int = 89_478_485
    """Largest number of pixels in one picture: Pillow's own limit, 268 MB as RGB."""
    max_text_bytes: int = 64 << 10
    """Largest size of one text."""
    cache_bytes: int = 256 << 20
    """Size of the cache of picture features; 0: no features are kept."""
    startup_s: float = 300.0
    """Longest time that a worker may take to open its graphs."""
    stall_s: float = 300.0
    """Longest time that a worker with work may send no message; after it the worker is ended, as hung in a driver."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: Values are out of their ranges; the message names all of them.
            BackendError: There is no backend of this name.
        """
        require_backend(self.backend)
        counts = (
            *("workers", "max_batch", "queue", "max_rows", "max_body_bytes", "max_pixels"),
            *("max_text_bytes", "max_new_tokens", "max_picture_bytes", "threads", "max_answer_tokens"),
        )
        given = {name: getattr(self, name) for name in counts if getattr(self, name) is not None}
        wrong = [f"{name} {value} (1 or more)" for name, value in given.items() if value < 1]
        wrong += [
            f"{name} {getattr(self, name)} (0 or more)"
            for name in ("max_delay_ms", "cache_bytes")
            if not getattr(self, name) >= 0
        ]
        wrong += [
            f"{name} {getattr(self, name)} (more than 0)"
            for name in ("deadline_ms", "answer_deadline_s", "startup_s", "stall_s")
            if not getattr(self, name) > 0
        ]
        if wrong:
            raise InputError(f"serve: {', '.join(wrong)}; give values in these ranges")

    @property
    def session(self) -> SessionOptions:
        """Return the options with which each worker opens its graphs: full batches, on its part of the cores."""
        shared = max((os.cpu_count() or 1) // self.workers, 1) if self.workers > 1 else None
        return SessionOptions(threads=self.threads or shared, bf16=self.bf16, rows=self.max_batch)
