"""Run a server: a bundle's engine and the protocols before it, on an event loop of their own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from internvl_edge.runtime.bundle.tokenizer import Tokenizer
from internvl_edge.runtime.serve.observe.access_log import AccessLog
from internvl_edge.runtime.serve.observe.device_memory import memory_reader
from internvl_edge.runtime.serve.observe.opentelemetry_sdk import provider_from_environment
from internvl_edge.runtime.serve.observe.record import Record
from internvl_edge.runtime.serve.observe.tracing import TracingRecord
from internvl_edge.runtime.serve.options import ServeOptions
from internvl_edge.runtime.serve.pool import WorkerEngine
from internvl_edge.runtime.serve.protocol.credentials import Credentials
from internvl_edge.runtime.serve.protocol.options import ProtocolOptions
from internvl_edge.runtime.serve.protocol.service import Service
from internvl_edge.runtime.serve.server import ServerOptions, require_packages, serve

_TOKENIZER_FILE = "tokenizer.model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """Settings of a server besides those of its engine and ports."""

    keys: Sequence[str] = ()
    """Accepted API keys; none: requests need no key."""
    drain_s: float = 30.0
    """Longest time that accepted requests may take to finish after SIGTERM or SIGINT."""
    access_log: bool = True
    traces: bool = False
    """Whether to send OpenTelemetry spans, as its environment variables configure them."""


def run_server(
    bundle: Path, engine: ServeOptions, server: ServerOptions, extras: Extras, announce: Callable[[str], None]
) -> None:
    """Serve `bundle` until SIGTERM or SIGINT.

    Raises:
        EdgeError: The bundle cannot be served, for the reason that the error gives.
    """
    require_packages()
    import uvloop

    provider = provider_from_environment() if extras.traces else None
    record = Record() if provider is None else TracingRecord(provider)
    pool = WorkerEngine(bundle, engine, record)
    service = Service(
        pool,
        record=record,
        options=ProtocolOptions.of(engine, extras.drain_s),
        credentials=Credentials(extras.keys),
        access_log=AccessLog() if extras.access_log else None,
        memory_bytes=memory_reader(),
        count_tokens=_TokenCount(bundle / _TOKENIZER_FILE),
    )
    try:
        uvloop.run(serve(pool, service, server, announce))
    finally:
        if isinstance(record, TracingRecord):
            record.close()


class _TokenCount:
    """A counter of the tokens that the model reads of texts: prefix and special tokens included, truncated ones not."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._tokenizer: Tokenizer | None = None

    def __call__(self, texts: Sequence[str]) -> int:
        if not texts:
            return 0
        if self._tokenizer is None:
            self._tokenizer = Tokenizer(self._file)
        return int(np.count_nonzero(self._tokenizer.encode_texts(texts)))
