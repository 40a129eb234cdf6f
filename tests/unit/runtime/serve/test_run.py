"""How a bundle, its engine and its protocols are put together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from internvl_edge.runtime.bundle.tokenizer import Tokenizer
from internvl_edge.runtime.serve import run as run_module
from internvl_edge.runtime.serve.options import ServeOptions
from internvl_edge.runtime.serve.protocol.service import Service
from internvl_edge.runtime.serve.run import Extras, run_server
from internvl_edge.runtime.serve.server import ServerOptions


@pytest.fixture
def put_together(monkeypatch: pytest.MonkeyPatch, bundle_folder: Path) -> Callable[..., Service]:
    """Run everything but the event loop, and return the service."""
    found: list[Any] = []
    monkeypatch.setattr(run_module, "WorkerEngine", lambda bundle, engine, record: (bundle, engine))
    monkeypatch.setattr(run_module, "serve", lambda *arguments: found.append(arguments))
    monkeypatch.setattr(uvloop, "run", lambda serving: None)

    def run(engine: ServeOptions, extras: Extras) -> Service:
        server = ServerOptions()
        run_server(bundle_folder, engine, server, extras, print)
        pool, service, options, announce = found.pop()
        assert (pool, options, announce) == ((bundle_folder, engine), server, print)
        assert isinstance(service, Service)
        return service

    return run


def test_limits_of_the_engine_are_those_of_the_protocols(put_together: Callable[..., Service]) -> None:
    service = put_together(ServeOptions(max_body_bytes=7, deadline_ms=250, max_batch=3), Extras(drain_s=2.0))
    options = service.options
    assert (options.body_bytes, options.deadline_s, options.max_batch, options.drain_s) == (7, 0.25, 3, 2.0)


def test_tokens_are_those_that_the_model_reads(
    put_together: Callable[..., Service], golden_a: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = put_together(ServeOptions(), Extras())
    assert service.count_tokens([]) == 0
    tokenizer = Tokenizer(golden_a / "checkpoint" / "tokenizer.model")
    expected = sum(int((tokenizer.encode_texts([text]) != 0).sum()) for text in ("cat", "a red kite"))
    assert service.count_tokens(["cat", "a red kite"]) == expected
    monkeypatch.setattr(run_module, "Tokenizer", None)  # it is loaded once
    assert service.count_tokens(["cat", "a red kite"]) == expected
