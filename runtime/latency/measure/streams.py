"""Calls in a loop on one or several threads; each call is timed and the spans of its stages are recorded."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from internvl_edge.runtime.stages import Span, Stages

Workload = Callable[[Stages], None]
"""Function that makes one call and records its stages in the given object."""


@dataclass(frozen=True, slots=True)
class RawCall:
    """One timed call; its spans are evaluated after the measurement."""

    stream: int
    start_ns: int
    end_ns: int
    spans: list[Span]


def timed_call(work: Workload, stream: int = 0) -> RawCall:
    """Run `work` once."""
    stages = Stages()
    start = time.perf_counter_ns()
    work(stages)
    return RawCall(stream, start, time.perf_counter_ns(), stages.spans)


def run_streams(workloads: Sequence[Workload], seconds: float, calls: int, stop: threading.Event) -> list[RawCall]:
    """Call each of `workloads` repeatedly in a thread of its own, for `seconds` and until `calls` are done in all.

    Setting `stop` ends it after the calls under way. Returns the calls in order of their start; raises the first error
    of a thread.
    """
    deadline = time.perf_counter_ns() + round(seconds * 1e9)
    if len(workloads) == 1:
        return _loop(workloads[0], 0, deadline, calls, stop)
    share = -(-calls // len(workloads))
    done: list[list[RawCall]] = [[] for _ in workloads]
    failures: list[BaseException] = []

    def stream(index: int) -> None:
        try:
            done[index] = _loop(workloads[index], index, deadline, share, stop)
        except BaseException as error:  # the waiting thread raises it
            failures.append(error)
            stop.set()

    threads = [threading.Thread(target=stream, args=(index,), daemon=True) for index in range(len(workloads))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return sorted((call for part in done for call in part), key=lambda call: call.start_ns)


def _loop(work: Workload, stream: int, deadline_ns: int, calls: int, stop: threading.Event) -> list[RawCall]:
    done: list[RawCall] = []
    while not stop.is_set() and (len(done) < calls or time.perf_counter_ns() < deadline_ns):
        done.append(timed_call(work, stream))
    return done
