"""What a user may set of a server's engine."""

import os
from dataclasses import dataclass

from internvl_edge.runtime.backends import SessionOptions, require_backend
from internvl_edge.runtime.errors import InputError

MAX_NEW_TOKENS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """How a bundle is served."""

    backend: str = "auto"
    graphs: tuple[str, ...] | None = None
    """Graphs to open, and with them the tasks that need no other; None: all of the bundle."""
    workers: int = 1
    """Processes that hold a model each."""
    threads: int | None = None
    """Of a CPU backend in each worker; None: the cores, shared out evenly."""
    bf16: bool = False
    """A processor with units for bf16 may compute in it."""
    max_batch: int = 16
    """Rows that go through a model together at most."""
    max_delay_ms: float = 2.0
    """How long an idle worker may hold a request back for company."""
    queue: int = 256
    """Requests that may wait."""
    deadline_ms: float = 500.0
    """Of a request that sets none."""
    max_rows: int = 1024
    """Pictures or texts of one request."""
    max_body_bytes: int = 64 << 20
    max_new_tokens: int = MAX_NEW_TOKENS
    """Of one caption: each takes room in the decoder's cache for as long as the caption is written."""
    max_pixels: int = 89_478_485
    """Of one picture: Pillow's own limit, 268 MB as RGB."""
    max_text_bytes: int = 64 << 10
    """Of one text."""
    cache_bytes: int = 256 << 20
    """Of features of pictures that were seen before; 0: none is kept."""
    startup_s: float = 300.0
    """How long a worker may take to open its graphs."""
    stall_s: float = 300.0
    """How long a worker that has work may say nothing before it is ended: it hangs, in a driver for example."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: values out of their range, all of them named.
            BackendError: there is no such backend.
        """
        require_backend(self.backend)
        counts = (
            *("workers", "max_batch", "queue", "max_rows", "max_body_bytes", "max_pixels"),
            *("max_text_bytes", "max_new_tokens"),
        )
        wrong = [f"{name} {getattr(self, name)} (1 or more)" for name in counts if getattr(self, name) < 1]
        if self.threads is not None and self.threads < 1:
            wrong.append(f"threads {self.threads} (1 or more)")
        wrong += [
            f"{name} {getattr(self, name)} (0 or more)"
            for name in ("max_delay_ms", "cache_bytes")
            if not getattr(self, name) >= 0
        ]
        wrong += [
            f"{name} {getattr(self, name)} (more than 0)"
            for name in ("deadline_ms", "startup_s", "stall_s")
            if not getattr(self, name) > 0
        ]
        if wrong:
            raise InputError(f"serve: {', '.join(wrong)}; give values in these ranges")

    @property
    def session(self) -> SessionOptions:
        """Return what each worker opens its graphs with: for full batches, on its part of the cores."""
        shared = max((os.cpu_count() or 1) // self.workers, 1) if self.workers > 1 else None
        return SessionOptions(threads=self.threads or shared, bf16=self.bf16, rows=self.max_batch)
