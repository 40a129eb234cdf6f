"""Throughput and latency of `internvl-edge serve` and of other servers over HTTP: `serve_http.py BUNDLE`.

One client process asks each server in turn, round by round, for the features of a short text's ids, as JSON; figures
are medians over the rounds. `--peer litserve=PYTHON` and `--peer mlserver=PYTHON` name the Python that has the peer.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import uvloop
from serve_client import Connection, connect
from serve_peers import THREADS

from internvl_edge.runtime.bundle.bundle import Bundle

IDS = [[1, 105, 320, 77, 940, 12, 560, 33, 2]]
_START_S = 90.0
_ANSWER_S = 30.0
"""Seconds after which a server without an answer counts as hung."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server, and the request that is sent to it."""

    name: str
    port: int
    pid: int
    request: bytes


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--peer", "peers", multiple=True, metavar="NAME=PYTHON", help="litserve or mlserver, and its Python.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--seconds", default=2.0, show_default=True, help="Of each server in each round.")
@click.option("--concurrency", default="1,8,64", show_default=True)
@click.option("--threads", default=1, show_default=True, help="Of ONNX Runtime in each server.")
def main(bundle: Path, peers: tuple[str, ...], rounds: int, seconds: float, concurrency: str, threads: int) -> None:
    """Print requests per second and latency of each server."""
    graph = Bundle.open(bundle).graph_file("text").resolve()
    with contextlib.ExitStack() as running:
        servers = [running.enter_context(ours(bundle, threads))]
        for name, python in (peer.split("=", 1) for peer in peers):
            servers.append(running.enter_context(_peer(name, python, graph, threads)))
        for server in servers:
            uvloop.run(require_up(server))
        print(f"{bundle}, graph text, {os.cpu_count()} cores, {threads} threads, {len(IDS[0])} ids a request")
        print("| clients | server | requests/s | p50 ms | p99 ms |\n| ---: | --- | ---: | ---: | ---: |")
        for clients in map(int, concurrency.split(",")):
            rows: dict[str, list[tuple[float, ...]]] = {server.name: [] for server in servers}
            for _ in range(rounds):
                for server in servers:
                    rows[server.name].append(uvloop.run(closed_loop(server, clients, seconds)))
            for name, found in rows.items():
                rate, p50, p99 = (statistics.median(column) for column in zip(*found, strict=True))
                print(f"| {clients} | {name} | {rate:.0f} | {p50:.2f} | {p99:.2f} |")


@contextlib.contextmanager
def ours(bundle: Path, threads: int, texts: int = 1) -> Iterator[Server]:
    """Run `internvl-edge serve`; each request has this number of texts."""
    port = _free_port()
    command = [sys.executable, "-m", "internvl_edge.cli", "serve", str(bundle), "--http", str(port), "--grpc", "-1"]
    command += ["--graphs", "text", "--threads", str(threads), "--no-access-log", "--backend", "onnxruntime"]
    tensor = {"name": "input_ids", "shape": [texts, len(IDS[0])], "datatype": "INT64", "data": IDS * texts}
    with _process(command, {}) as pid:
        yield Server("internvl-edge", port, pid, _post(port, "/v2/models/text/infer", {"inputs": [tensor]}))


@contextlib.contextmanager
def _peer(name: str, python: str, graph: Path, threads: int) -> Iterator[Server]:
    port = _free_port()
    command = [python, str(Path(__file__).with_name("serve_peers.py")), name, str(graph), str(port)]
    tensor = {"name": "input_ids", "shape": [1, len(IDS[0])], "datatype": "INT64", "data": IDS}
    path, body = {
        "litserve": ("/predict", {"input_ids": IDS}),
        "mlserver": ("/v2/models/text/infer", {"inputs": [tensor]}),
    }[name]
    with _process(command, {THREADS: str(threads)}) as pid:
        yield Server(name, port, pid, _post(port, path, body))


@contextlib.contextmanager
def _process(command: list[str], environment: dict[str, str]) -> Iterator[int]:
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process.pid
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it started and left
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _post(port: int, path: str, body: object) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


async def require_up(server: Server) -> None:
    """Send the request until the server answers."""
    end = time.monotonic() + _START_S
    while True:
        with contextlib.suppress(OSError, RuntimeError, asyncio.TimeoutError):
            connection = await connect(server.port)
            try:
                await asyncio.wait_for(_ask(connection, server), _ANSWER_S)
                return
            finally:
                connection.close()
        if time.monotonic() > end:
            raise click.ClickException(f"{server.name}: no answer within {_START_S:g} s")
        await asyncio.sleep(0.2)


async def closed_loop(server: Server, clients: int, seconds: float) -> tuple[float, float, float]:
    """Run clients that send requests one after the other; return answers per second, p50 and p99 in ms."""
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def client() -> None:
        connection = await connect(server.port)
        while (start := time.perf_counter()) < end:
            await _ask(connection, server)
            times.append((time.perf_counter() - start) * 1e3)
        connection.close()

    begin = time.perf_counter()
    await asyncio.wait_for(asyncio.gather(*(client() for _ in range(clients))), seconds + _ANSWER_S)
    p50, p99 = np.percentile(times, (50, 99))
    return len(times) / (time.perf_counter() - begin), float(p50), float(p99)


async def _ask(connection: Connection, server: Server) -> None:
    if (status := await connection.ask(server.request)) != "200":
        raise RuntimeError(f"{server.name}: answers {status}")


if __name__ == "__main__":
    main()
