"""A server from its start to its end: what it announces, and what ends it."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from internvl_edge.runtime.errors import BackendError, InputError
from internvl_edge.runtime.serve import server
from internvl_edge.runtime.serve.protocol.service import Service
from internvl_edge.runtime.serve.server import ServerOptions, require_packages, serve
from tests.tolerances import HANG_S
from tests.unit.runtime.serve.fake_engine import FakeEngine

ANY = ServerOptions(http=0, grpc=0)


class Engine(FakeEngine):
    """A fake that is started and closed; `begin` is awaited by its start."""

    def __init__(self, begin: "Callable[[], object] | None" = None, fails: Exception | None = None) -> None:
        super().__init__()
        self.fails = fails
        self.closed_s: list[float] = []
        self.holds = begin

    async def start(self) -> None:
        if self.fails is not None:
            raise self.fails
        if self.holds is not None:
            self.holds()
            await asyncio.Event().wait()

    async def close(self, grace_s: float) -> None:
        self.closed_s.append(grace_s)


@pytest.fixture(autouse=True)
def garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_tune_garbage_collector", lambda: None)  # of the whole process


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def run(engine: Engine, options: ServerOptions = ANY) -> tuple[list[str], Service]:
    lines: list[str] = []
    service = Service(engine)

    def announce(line: str) -> None:
        lines.append(line)
        if line.startswith("Ready"):
            stop()

    asyncio.run(asyncio.wait_for(serve(engine, service, options, announce), HANG_S))
    return lines, service


def test_ports_are_told_then_the_models_then_the_end() -> None:
    engine = Engine()
    lines, service = run(engine)
    assert lines[0].startswith("HTTP on http://127.0.0.1:")
    assert "gRPC on grpc://127.0.0.1:" in lines[0]
    assert lines[1:] == [f"Ready: {', '.join(engine.signatures)}", "Stopping: accepted requests finish"]
    assert engine.closed_s == [service.options.drain_s]
    assert service.draining


def test_a_signal_ends_a_server_that_has_not_started() -> None:
    engine = Engine(begin=stop)
    lines, service = run(engine)
    assert len(lines) == 1
    assert (len(engine.closed_s), service.draining) == (1, True)


def test_an_engine_that_does_not_start_closes_everything() -> None:
    engine = Engine(fails=InputError("no such graph"))
    with pytest.raises(InputError, match="no such graph"):
        run(engine)
    assert len(engine.closed_s) == 1


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_port_that_is_taken_is_told_before_the_engine_starts(protocol: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = {"http": None, "grpc": None, protocol: taken.getsockname()[1]}
        engine = Engine()
        with pytest.raises(InputError, match=r"127\.0\.0\.1:\d+: cannot be listened on \(.*\); choose another port"):
            run(engine, ServerOptions(**ports))
    assert engine.closed_s == []


@pytest.mark.parametrize("grpc", [None, 0])
def test_a_certificate_that_cannot_be_used_is_one_line(tmp_path: Path, grpc: "int | None") -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    if grpc is None:
        certificate.write_text("no certificate")
        key.write_text("no key")
    options = ServerOptions(http=0 if grpc is None else None, grpc=grpc, tls_cert=certificate, tls_key=key)
    told = "no usable certificate and key" if grpc is None else "cannot be read"
    with pytest.raises(InputError, match=told):
        run(Engine(), options)


def test_packages_that_are_missing_are_named_together(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("uvicorn", "grpc"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendError, match=r"uvicorn.*not installed; pip install 'internvl-edge\[serve\]'") as caught:
        require_packages()
    assert "grpc" in str(caught.value)
