"""Spans of stages: what is timed, in which order, and that measuring nothing costs nothing."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from internvl_edge.runtime.stages import COMPUTE, PREPROCESS, UNMEASURED, Stages
from tests.tolerances import HANG_S


def test_a_stage_is_a_span_with_its_graph_and_length() -> None:
    stages = Stages()
    with stages.stage(COMPUTE, "vision"):
        time.sleep(0.01)
    (span,) = stages.spans
    assert (span.stage, span.graph, span.on_device) == (COMPUTE, "vision", False)
    assert 10e6 <= span.end_ns - span.start_ns < 1e9


def test_a_stage_that_fails_is_timed_and_fails() -> None:
    stages = Stages()
    with pytest.raises(ValueError, match="broken"), stages.stage(PREPROCESS):
        raise ValueError("broken")
    assert [span.stage for span in stages.spans] == [PREPROCESS]


def test_a_device_reports_its_own_length() -> None:
    stages = Stages()
    stages.device(COMPUTE, "query", 2.5)
    (span,) = stages.spans
    assert span.on_device
    assert span.end_ns - span.start_ns == 2_500_000


def test_threads_share_the_stages() -> None:
    stages, both = Stages(), threading.Barrier(2)

    def work() -> None:
        with stages.stage(PREPROCESS):
            both.wait(HANG_S)

    with ThreadPoolExecutor(2) as pool:
        for job in [pool.submit(work) for _ in range(2)]:
            job.result()
    assert len({span.thread for span in stages.spans}) == 2


def test_unmeasured_keeps_nothing() -> None:
    with UNMEASURED.stage(COMPUTE):
        pass
    UNMEASURED.device(COMPUTE, "vision", 1.0)
    assert UNMEASURED.spans == []
