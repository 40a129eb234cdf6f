"""The table of one request's stages."""

from internvl_edge.runtime.latency.measure.stage_times import covered_ms, request_report, stage_times
from internvl_edge.runtime.stages import COMPUTE, DECODE_IMAGE, TOKENIZE, Span, Stages
from tests.unit.runtime.latency_fakes import MS

SPANS = [
    Span(DECODE_IMAGE, "", 0, 2 * MS, False, 1),
    Span(COMPUTE, "vision", 2 * MS, 6 * MS, False, 1),
    Span(COMPUTE, "decoder", 6 * MS, 7 * MS, False, 1),
    Span(COMPUTE, "decoder", 8 * MS, 9 * MS, False, 1),
]


def test_the_table_adds_calls_up_and_tells_what_no_stage_covers() -> None:
    assert request_report(Stages(list(SPANS)), 0.010).splitlines() == [
        "stage         graph    calls      ms   share",
        "decode image               1   2.000   20.0%",
        "compute       vision       1   4.000   40.0%",
        "compute       decoder      2   2.000   20.0%",
        "(no stage)                     2.000   20.0%",
        "request                    1  10.000  100.0%",
    ]


def test_the_devices_clock_is_marked() -> None:
    text = request_report(Stages([Span(COMPUTE, "vision", 0, MS, True, 1)]), 0.002)
    assert "compute *" in text
    assert text.splitlines()[-1] == "* on the device's clock"


def test_stages_come_in_the_order_of_a_request() -> None:
    spans = [
        Span(TOKENIZE, "", 3, 4, False, 1),
        Span("new stage", "", 0, 1, False, 1),
        Span(DECODE_IMAGE, "", 1, 2, False, 1),
    ]
    assert [time.stage for time in stage_times(spans)] == [DECODE_IMAGE, TOKENIZE, "new stage"]


def test_time_that_threads_share_counts_once_as_covered() -> None:
    spans = [Span(COMPUTE, "a", 0, 4 * MS, False, 1), Span(COMPUTE, "a", 1 * MS, 5 * MS, False, 2)]
    assert covered_ms(spans) == 5.0
    assert stage_times(spans)[0].milliseconds == 8.0


def test_a_request_without_stages_is_all_uncovered() -> None:
    assert "(no stage)                5.000  100.0%" in request_report(Stages(), 0.005)
