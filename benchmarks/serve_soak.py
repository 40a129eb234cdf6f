"""Behaviour of `internvl-edge serve` at twice its capacity, over HTTP on this machine: `serve_soak.py BUNDLE`.

The rate that it can do is measured first, with clients that ask again as soon as they are answered. Then requests for
the features of short texts' ids leave at random times of twice that mean rate, whether earlier ones were answered or
not, on connections that are kept. Printed: what became of them, how fast, and the memory of the server's
processes meanwhile.
"""

import asyncio
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
import uvloop
from serve_client import Connection, connect
from serve_http import Server, closed_loop, ours, require_up

_MEASURED_S = 5.0
_SAMPLES = 12
"""Number of times that memory is read."""
Idle = asyncio.Queue[Connection]


@dataclass(slots=True)
class Outcome:
    """Outcomes of requests."""

    times_ms: dict[str, list[float]] = field(default_factory=dict)
    """Number of answers by status; `none` if the connection broke."""
    memory: list[int] = field(default_factory=list)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--seconds", default=600.0, show_default=True)
@click.option("--factor", default=2.0, show_default=True, help="How often what it can do is asked.")
@click.option("--texts", default=1, show_default=True, help="In each request.")
@click.option("--clients", default=64, show_default=True, help="Whose closed loop shows what can be done.")
@click.option("--connections", default=512, show_default=True)
@click.option("--threads", default=1, show_default=True, help="Of ONNX Runtime.")
def main(bundle: Path, seconds: float, factor: float, texts: int, clients: int, connections: int, threads: int) -> None:
    """Print the outcomes of requests to an overloaded server."""
    with ours(bundle, threads, texts) as server:
        uvloop.run(require_up(server))
        rate, _, _ = uvloop.run(closed_loop(server, clients, _MEASURED_S))
        print(f"{bundle}, graph text, {os.cpu_count()} cores: {rate:.0f} requests/s of {texts} texts can be done")
        outcome = uvloop.run(_soak(server, rate * factor, seconds, connections))
    total = sum(map(len, outcome.times_ms.values()))
    print(f"asked {total} in {seconds:g} s, {total / seconds:.0f} a second, on {connections} connections")
    for status, times in sorted(outcome.times_ms.items()):
        p50, p99 = np.percentile(times, (50, 99))
        print(f"{status}: {len(times)} ({len(times) / seconds:.0f}/s), p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    print("memory of its processes, MB: " + ", ".join(f"{size / 1e6:.0f}" for size in outcome.memory))


async def _soak(server: Server, rate: float, seconds: float, connections: int) -> Outcome:
    rng, outcome = np.random.default_rng(0), Outcome()
    idle: Idle = asyncio.Queue()
    for _ in range(connections):
        idle.put_nowait(await connect(server.port))
    watching = asyncio.ensure_future(_watch(server.pid, seconds / _SAMPLES, outcome))
    begin, due, open_requests = time.perf_counter(), 0.0, set[asyncio.Task[None]]()
    while due < seconds:
        if (wait := begin + due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        task = asyncio.ensure_future(_ask(server, idle, outcome))
        open_requests.add(task)
        task.add_done_callback(open_requests.discard)
        due += rng.exponential(1 / rate)
    await asyncio.gather(*open_requests)
    watching.cancel()
    return outcome


async def _ask(server: Server, idle: Idle, outcome: Outcome) -> None:
    """Send a request on a free connection; waiting for one counts as latency."""
    start, status = time.perf_counter(), "none"
    connection = await idle.get()
    try:
        status = await connection.ask(server.request)
    except ConnectionError:
        connection = await connect(server.port)
    idle.put_nowait(connection)
    outcome.times_ms.setdefault(status, []).append((time.perf_counter() - start) * 1e3)


async def _watch(process: int, every_s: float, outcome: Outcome) -> None:
    while True:
        outcome.memory.append(sum(map(_resident_bytes, _tree(process))))
        await asyncio.sleep(every_s)


def _tree(process: int) -> list[int]:
    """Return a process and all its descendants."""
    tasks = Path(f"/proc/{process}/task").iterdir()
    children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return [process, *(each for child in children for each in _tree(child))]


def _resident_bytes(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
