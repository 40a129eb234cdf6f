"""Cost of serving beside the model in this process, and its behaviour under overload: `serve.py BUNDLE`.

The engine of `internvl-edge serve` (scheduler, worker process, no protocol) and `InternVL` in this process take turns,
round by round, on the same texts; figures are medians over the rounds. Latency is at concurrency 1; throughput that of
clients that ask again as soon as they are answered, against full batches in a row in this process. `--soak SECONDS`
asks at twice the measured rate, whether answered or not, and watches the memory of all processes. Over HTTP and
against other servers: `serve_http.py`.
"""

import asyncio
import os
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np

from internvl_edge.runtime import InternVL
from internvl_edge.runtime.serve.options import ServeOptions
from internvl_edge.runtime.serve.pool import WorkerEngine
from internvl_edge.runtime.serve.refusals import RefusalError
from internvl_edge.runtime.serve.requests import Request
from internvl_edge.runtime.serve.workers.process import ProcessLink

WORDS = ("red", "kite", "over", "the", "sea", "with", "two", "boats", "and", "a", "dog", "in", "spring")
_SAMPLES = 10
"""Number of times that memory is read in a soak."""


@dataclass(slots=True)
class Outcome:
    """Outcomes of the requests of one run."""

    answered_ms: list[float] = field(default_factory=list)
    refused_ms: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Return answers per second."""
        return len(self.answered_ms) / self.seconds


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--rounds", default=5, show_default=True)
@click.option("--seconds", default=2.0, show_default=True, help="Of each side in each round.")
@click.option("--concurrency", default="1,8,64", show_default=True)
@click.option("--threads", type=int)
@click.option("--workers", default=1, show_default=True)
@click.option("--max-batch", default=16, show_default=True)
@click.option("--backend", default="auto", show_default=True)
@click.option("--soak", "soak_s", type=float, help="Ask at twice the capacity for so many seconds.")
def main(
    bundle: Path,
    rounds: int,
    seconds: float,
    concurrency: str,
    threads: int | None,
    workers: int,
    max_batch: int,
    backend: str,
    soak_s: float | None,
) -> None:
    """Print the figures."""
    options = ServeOptions(threads=threads, workers=workers, max_batch=max_batch, backend=backend)
    clients = [int(part) for part in concurrency.split(",")]
    print(f"{bundle}, encode_text, {os.cpu_count()} cores, {workers} workers, batches of {max_batch}")
    asyncio.run(_measured(bundle, options, clients, rounds, seconds, soak_s))


async def _measured(
    bundle: Path, options: ServeOptions, clients: list[int], rounds: int, seconds: float, soak_s: float | None
) -> None:
    engine = WorkerEngine(bundle, options)
    await engine.start()
    try:
        with InternVL.open(bundle, options.backend, batch_size=options.max_batch, options=options.session) as model:
            await _overhead(engine, model, rounds, seconds)
            rate = await _throughput(engine, model, options, clients, rounds, seconds)
        if soak_s:
            await _soak(engine, options, rate, soak_s)
    finally:
        await engine.close()


async def _overhead(engine: WorkerEngine, model: InternVL, rounds: int, seconds: float) -> None:
    """Print the latency of one short text at a time, in this process and served."""
    own: list[tuple[float, float]] = []
    served: list[tuple[float, float]] = []
    for _ in range(rounds):
        own.append(_percentiles(_alone(model, seconds / 2)))
        served.append(_percentiles((await _closed_loop(engine, 1, seconds / 2)).answered_ms))
    (own_50, own_99), (served_50, served_99) = (_medians(rows) for rows in (own, served))
    added = statistics.median(after[0] - before[0] for before, after in zip(own, served, strict=True))
    print(f"concurrency 1: in process p50 {own_50:.2f} ms, p99 {own_99:.2f}; served {served_50:.2f}, {served_99:.2f}")
    print(f"added by serving, p50: {added:.2f} ms")


async def _throughput(
    engine: WorkerEngine, model: InternVL, options: ServeOptions, clients: list[int], rounds: int, seconds: float
) -> float:
    """Print texts per second by concurrency against full batches in this process; return the highest served."""
    print("| clients | texts/s | of in process | p50 ms | p99 ms |\n| ---: | ---: | ---: | ---: | ---: |")
    best = 0.0
    for count in clients:
        rows = []
        for _ in range(rounds):
            own = _batched(model, options.max_batch, seconds)
            outcome = await _closed_loop(engine, count, seconds)
            rows.append((outcome.rate, outcome.rate / own, *_percentiles(outcome.answered_ms)))
        rate, part, p50, p99 = _medians(rows)
        print(f"| {count} | {rate:.0f} | {part:.0%} | {p50:.2f} | {p99:.2f} |")
        best = max(best, rate)
    return best


async def _soak(engine: WorkerEngine, options: ServeOptions, rate: float, seconds: float) -> None:
    """Send requests at twice `rate`; print how many were answered, how fast others were refused, and the memory."""
    print(f"soak: {2 * rate:.0f} requests/s for {seconds:g} s, deadline {options.deadline_ms:g} ms")
    memory: list[int] = []
    watching = asyncio.ensure_future(_watch(engine, seconds / _SAMPLES, memory))
    outcome = await _open_loop(engine, 2 * rate, seconds, options.deadline_ms / 1e3)
    watching.cancel()
    refused = Counter({name: len(times) for name, times in outcome.refused_ms.items()})
    total = len(outcome.answered_ms) + refused.total()
    p50, p99 = _percentiles(outcome.answered_ms)
    print(f"{total} asked, {len(outcome.answered_ms)} answered ({outcome.rate:.0f}/s, p50 {p50:.1f} ms, p99 {p99:.1f})")
    for name, times in outcome.refused_ms.items():
        print(f"{name}: {len(times)}, p50 {_percentiles(times)[0]:.2f} ms, p99 {_percentiles(times)[1]:.2f}")
    print("memory of all processes, MB: " + ", ".join(f"{size / 1e6:.0f}" for size in memory))


def _alone(model: InternVL, seconds: float) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        model.encode_text([_text(len(times))])
        times.append((time.perf_counter() - start) * 1e3)
    return times


def _batched(model: InternVL, rows: int, seconds: float) -> float:
    done, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        model.encode_text([_text(done + row) for row in range(rows)])
        done += rows
    return done / (time.perf_counter() - begin)


async def _closed_loop(engine: WorkerEngine, clients: int, seconds: float) -> Outcome:
    """Run clients that each send a request as soon as the one before is answered."""
    outcome, begin = Outcome(), time.perf_counter()

    async def client(number: int) -> None:
        while time.perf_counter() - begin < seconds:
            await _ask(engine, _request(number + len(outcome.answered_ms), str(number)), outcome)

    await asyncio.gather(*(client(number) for number in range(clients)))
    outcome.seconds = time.perf_counter() - begin
    return outcome


async def _open_loop(engine: WorkerEngine, rate: float, seconds: float, deadline_s: float) -> Outcome:
    """Send requests at random times of a mean rate, whether earlier ones were answered or not."""
    rng = np.random.default_rng(0)
    outcome, begin, due, asked = Outcome(), time.perf_counter(), 0.0, 0
    open_requests: set[asyncio.Task[None]] = set()
    while due < seconds:
        if (wait := begin + due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        request = _request(asked, str(asked % 16), time.monotonic() + deadline_s)
        task = asyncio.ensure_future(_ask(engine, request, outcome))
        open_requests.add(task)
        task.add_done_callback(open_requests.discard)
        asked += 1
        due += rng.exponential(1 / rate)
    await asyncio.gather(*open_requests)
    outcome.seconds = time.perf_counter() - begin
    return outcome


async def _ask(engine: WorkerEngine, request: Request, outcome: Outcome) -> None:
    start = time.perf_counter()
    try:
        await engine.infer(request)
    except RefusalError as refusal:
        took = (time.perf_counter() - start) * 1e3
        outcome.refused_ms.setdefault(type(refusal).__name__, []).append(took)
        return
    outcome.answered_ms.append((time.perf_counter() - start) * 1e3)


async def _watch(engine: WorkerEngine, every_s: float, memory: list[int]) -> None:
    while True:
        links = [worker.link for worker in engine.workers]
        processes = [os.getpid(), *(link.pid for link in links if isinstance(link, ProcessLink))]
        memory.append(sum(_resident_bytes(process) for process in processes))
        await asyncio.sleep(every_s)


def _resident_bytes(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _request(number: int, client: str, deadline: float | None = None) -> Request:
    values = np.empty(1, np.object_)
    values[0] = _text(number).encode()
    return Request(model="encode_text", inputs={"text": values}, client=client, deadline=deadline)


def _text(number: int) -> str:
    return " ".join(WORDS[(number * 7 + step * 3) % len(WORDS)] for step in range(5))


def _percentiles(times_ms: list[float]) -> tuple[float, float]:
    p50, p99 = np.percentile(times_ms, (50, 99))
    return float(p50), float(p99)


def _medians(rows: Sequence[tuple[float, ...]]) -> list[float]:
    return [statistics.median(column) for column in zip(*rows, strict=True)]


if __name__ == "__main__":
    main()
