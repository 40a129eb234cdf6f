"""The server's counts and times since its start, kept once for metrics, status page and statistics."""

import time
from collections import Counter, defaultdict
from collections.abc import Sequence

from internvl_edge.runtime.serve.observe.exchange import Answered, Exchange
from internvl_edge.runtime.serve.observe.histogram import FIRST_SECONDS, ROWS, TOKEN_RATES, Histogram


class Record:
    """An `Observer` of the engine that also counts the requests of the protocols."""

    def __init__(self) -> None:
        self.started = time.time()
        self.exchanges: Counter[tuple[str, str, str]] = Counter()
        """(model, protocol, status) -> number of requests that have ended."""
        self.latency: defaultdict[str, Histogram] = defaultdict(Histogram)
        """Model -> seconds of answered requests, from their first byte to the last byte of the answer."""
        self.failed: defaultdict[str, Histogram] = defaultdict(Histogram)
        """Model -> seconds of requests that got no answer."""
        self.stages: defaultdict[tuple[str, str], Histogram] = defaultdict(Histogram)
        """(model, stage) -> seconds of the stage."""
        self.request_seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
        """(model, stage) -> sum of the stage's seconds, added once for each request in it."""
        self.last_answer_ms: dict[str, int] = {}
        """Model -> time of its last answer, in milliseconds since 1970."""
        self.batches: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(ROWS))
        """Model -> rows of its batches."""
        self.first_piece: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(FIRST_SECONDS))
        """Chat model -> seconds from the first byte of a request to the first piece of its answer."""
        self.token_rates: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(TOKEN_RATES))
        """Chat model -> tokens a second of an answer after its first piece."""
        self.tokens: Counter[tuple[str, str]] = Counter()
        """(chat model, `prompt` or `completion`) -> number of tokens of answered requests."""
        self.refusals: Counter[tuple[str, str]] = Counter()
        """(model, name of the refusal's class) -> number of refusals."""
        self.rows: Counter[str] = Counter()
        """Model -> rows of answered requests."""
        self.taken: Counter[str] = Counter()
        """Model -> number of requests that were put into the queue."""
        self.lookups: Counter[bool] = Counter()
        """Whether the picture was in the cache -> number of lookups."""
        self.workers: dict[str, bool] = {}
        """Worker -> whether it takes batches."""
        self.deaths: Counter[str] = Counter()
        """Worker -> number of times that it has ended."""
        self.depth = 0
        """Number of requests that wait."""
        self.under_way = 0
        """Number of requests that have come and not ended."""

    def began(self, exchange: Exchange) -> None:
        """Count a request that has come."""
        self.under_way += 1

    def ended(self, exchange: Exchange) -> None:
        """Count a request that was answered, refused or given up by its client."""
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

        if exchange.answered is not None and not exchange.refusal:
            self._answered(exchange.model, exchange.answered)

    def accepted(self, model: str) -> None:
        """Count a request that was put into the queue."""
        self.taken[model] += 1

    def refused(self, model: str, refusal: str) -> None:
        """Count a request that got no answer."""
        self.refusals[model, refusal] += 1

    def batch(self, model: str, rows: int) -> None:
        """Count a batch of `rows` rows."""
        self.batches[model].add(rows)

    def queued(self, depth: int) -> None:
        """Note the number of requests that wait now."""
        self.depth = depth

    def stage(self, model: str, stage: str, seconds: float, traces: Sequence[str] = ()) -> None:
        """Add the seconds of a stage of a request or batch."""
        self.stages[model, stage].add(seconds)
        self.request_seconds[model, stage] += seconds * max(len(traces), 1)

    def cache(self, hit: bool) -> None:
        """Count a lookup of a picture in the cache."""
        self.lookups[hit] += 1

    def worker(self, name: str, alive: bool) -> None:
        """Note that a worker has started to take batches, or has ended."""
        if self.workers.get(name) and not alive:
            self.deaths[name] += 1
        self.workers[name] = alive

    def _answered(self, model: str, answered: Answered) -> None:
        self.first_piece[model].add(answered.first_s)
        if answered.tokens_per_s is not None:
            self.token_rates[model].add(answered.tokens_per_s)
        self.tokens[model, "prompt"] += answered.prompt_tokens
        self.tokens[model, "completion"] += answered.completion_tokens
