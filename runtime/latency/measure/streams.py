"""Calls in a loop on one or several threads, each call timed with the spans of its stages."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from internvl_edge.runtime.stages import Span, Stages

Work = Callable[[Stages], None]
"""One call of what is measured; it gives its stages to the stages that it is handed."""


@dataclass(frozen=True, slots=True)
class RawCall:
    """A call before its spans are read: reading them is left for after the measurement."""

    stream: int
    start_ns: int
    end_ns: int
    spans: list[Span]


def timed_call(work: Work, stream: int = 0) -> RawCall:
    """Run `work` once."""
    stages = Stages()
    start = time.perf_counter_ns()
    work(stages)
    return RawCall(stream, start, time.perf_counter_ns(), stages.spans)


def run_streams(works: Sequence[Work], seconds: float, calls: int, stop: threading.Event) -> list[RawCall]:
    """Run each of `works` again and again in its own thread, until `seconds` are over and `calls` are done in all.

    `stop` ends it after the calls that are under way. The calls come in order of their start. An error in a thread is
    raised here.
    """
    deadline = time.perf_counter_ns() + round(seconds * 1e9)
    if len(works) == 1:
        return _loop(works[0], 0, deadline, calls, stop)
    share = -(-calls // len(works))
    done: list[list[RawCall]] = [[] for _ in works]
    failures: list[BaseException] = []

    def stream(index: int) -> None:
        try:
            done[index] = _loop(works[index], index, deadline, share, stop)
        except BaseException as error:  # handed to the thread that waits, which raises it
            failures.append(error)
            stop.set()

    threads = [threading.Thread(target=stream, args=(index,), daemon=True) for index in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return sorted((call for part in done for call in part), key=lambda call: call.start_ns)


def _loop(work: Work, stream: int, deadline_ns: int, calls: int, stop: threading.Event) -> list[RawCall]:
    done: list[RawCall] = []
    while not stop.is_set() and (len(done) < calls or time.perf_counter_ns() < deadline_ns):
        done.append(timed_call(work, stream))
    return done
