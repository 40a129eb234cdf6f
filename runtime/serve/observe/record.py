"""The server's figures since it started, counted once for every view of them."""

import time
from collections import Counter, defaultdict
from collections.abc import Sequence

from internvl_edge.runtime.serve.observe.exchange import Exchange
from internvl_edge.runtime.serve.observe.histogram import ROWS, Histogram


class Record:
    """An `Observer` of the engine that the protocols tell of their exchanges too."""

    def __init__(self) -> None:
        self.started = time.time()
        self.exchanges: Counter[tuple[str, str, str]] = Counter()
        """(model, protocol, status)"""
        self.latency: defaultdict[str, Histogram] = defaultdict(Histogram)
        """Answered requests, from their first byte to the last of the answer, by model."""
        self.failed: defaultdict[str, Histogram] = defaultdict(Histogram)
        """The same for requests that got no answer."""
        self.stages: defaultdict[tuple[str, str], Histogram] = defaultdict(Histogram)
        """(model, stage)"""
        self.request_seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
        """(model, stage) -> time of the stage, once for each request that it served."""
        self.last_answer_ms: dict[str, int] = {}
        """When the last request was answered, since 1970, by model."""
        self.batches: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(ROWS))
        self.refusals: Counter[tuple[str, str]] = Counter()
        """(model, name of the refusal)"""
        self.rows: Counter[str] = Counter()
        """Of answered requests, by model."""
        self.taken: Counter[str] = Counter()
        self.lookups: Counter[bool] = Counter()
        """Whether the picture was in the cache."""
        self.workers: dict[str, bool] = {}
        self.deaths: Counter[str] = Counter()
        self.depth = 0
        self.under_way = 0

    def began(self, exchange: Exchange) -> None:
        """A request came in."""
        self.under_way += 1

    def ended(self, exchange: Exchange) -> None:
        """A request was answered, refused or given up by its client."""
        self.under_way -= 1
        self.exchanges[exchange.model, exchange.protocol, exchange.status] += 1
        if exchange.refusal and not exchange.taken:
            self.refused(exchange.model, exchange.refusal)
        if exchange.taken:
            figures = self.failed if exchange.refusal else self.latency
            figures[exchange.model].add(exchange.seconds)
            if not exchange.refusal:
                self.rows[exchange.model] += exchange.rows
                now_ms = time.time_ns() // 1_000_000
                self.last_answer_ms[exchange.model] = max(now_ms, self.last_answer_ms.get(exchange.model, 0))

    def accepted(self, model: str) -> None:
        """A request was taken into the queue."""
        self.taken[model] += 1

    def refused(self, model: str, refusal: str) -> None:
        """A request got no answer."""
        self.refusals[model, refusal] += 1

    def batch(self, model: str, rows: int) -> None:
        """A batch of so many rows went to a worker."""
        self.batches[model].add(rows)

    def queued(self, depth: int) -> None:
        """So many requests wait now."""
        self.depth = depth

    def stage(self, model: str, stage: str, seconds: float, traces: Sequence[str] = ()) -> None:
        """A stage of a request or batch took so long."""
        self.stages[model, stage].add(seconds)
        self.request_seconds[model, stage] += seconds * max(len(traces), 1)

    def cache(self, hit: bool) -> None:
        """A picture was looked up by its content."""
        self.lookups[hit] += 1

    def worker(self, name: str, alive: bool) -> None:
        """A worker came up or went down."""
        if self.workers.get(name) and not alive:
            self.deaths[name] += 1
        self.workers[name] = alive
