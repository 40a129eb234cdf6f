"""The record as metrics in the text format of Prometheus."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from internvl_edge.runtime.serve.observe.histogram import Histogram
from internvl_edge.runtime.serve.observe.record import Record

if TYPE_CHECKING:
    from prometheus_client.core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(record: Record, ready: bool, memory_bytes: Mapping[str, int]) -> bytes:
    """Return the text of the metrics; `memory_bytes` holds the memory in use of each device, by name."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(lambda: _families(record, ready, memory_bytes)))
    return generate_latest(registry)


class _Collector:
    def __init__(self, collect: "Callable[[], Iterator[Metric]]") -> None:
        self.collect = collect


def _families(record: Record, ready: bool, memory_bytes: Mapping[str, int]) -> "Iterator[Metric]":
    from prometheus_client.core import CounterMetricFamily as Counts
    from prometheus_client.core import GaugeMetricFamily as Gauge

    exchanges = Counts("internvl_requests", "Requests that ended.", labels=["model", "protocol", "status"])
    for labels, count in record.exchanges.items():
        exchanges.add_metric(labels, count)
    refusals = Counts("internvl_rejections", "Requests without an answer.", labels=["model", "reason"])
    for reason, count in record.refusals.items():
        refusals.add_metric(reason, count)
    cache = Counts("internvl_picture_cache", "Pictures looked up by their content.", labels=["result"])
    for hit, name in ((True, "hit"), (False, "miss")):
        cache.add_metric([name], record.lookups[hit])
    workers = Gauge("internvl_worker_up", "1 while the worker takes batches.", labels=["worker"])
    deaths = Counts("internvl_worker_deaths", "Times that the worker went down.", labels=["worker"])
    for worker, alive in record.workers.items():
        workers.add_metric([worker], alive)
        deaths.add_metric([worker], record.deaths[worker])
    tokens = Counts("internvl_tokens", "Tokens of answered requests.", labels=["model", "kind"])
    for kind, count in record.tokens.items():
        tokens.add_metric(kind, count)
    memory = Gauge("internvl_device_memory_used_bytes", "Memory of the device in use.", labels=["device"])
    for device, used in memory_bytes.items():
        memory.add_metric([device], used)
    yield from (exchanges, refusals, cache, workers, deaths, tokens, memory)
    yield Gauge("internvl_ready", "1 while requests are taken up at once.", value=ready)
    yield Gauge("internvl_queue_depth", "Requests that wait for a worker.", value=record.depth)
    yield Gauge("internvl_requests_under_way", "Requests that came in and have not ended.", value=record.under_way)
    yield _histogram("stage_seconds", "Latency of each stage.", ("model", "stage"), record.stages.items())
    for name, text, by_model in (
        ("request_seconds", "Latency of answered requests.", record.latency),
        ("batch_rows", "Rows of each batch.", record.batches),
        ("first_token_seconds", "Seconds to the first piece of an answer.", record.first_piece),
        ("answer_tokens_per_second", "Tokens a second after the first piece of an answer.", record.token_rates),
    ):
        yield _histogram(name, text, ("model",), (((model,), values) for model, values in by_model.items()))


def _histogram(
    name: str, text: str, labels: tuple[str, ...], histograms: "Iterable[tuple[tuple[str, ...], Histogram]]"
) -> "Metric":
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(f"internvl_{name}", text, labels=labels)
    for values, histogram in histograms:
        family.add_metric(values, histogram.cumulated(), histogram.sum)
    return family
