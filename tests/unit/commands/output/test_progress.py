"""Progress of long work in a log and on a terminal."""

import io
import logging
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from internvl_edge.commands.output.logs import configure_logging
from internvl_edge.commands.output.progress import Bars, Lines, Stage, amount, duration, shown_progress
from internvl_edge.runtime.progress import BYTES
from tests.tolerances import HANG_S


class Clock:
    """Stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def reporter() -> tuple[Lines, Clock, list[str]]:
    """Lines without their thread, a clock, and what is written."""
    clock, lines = Clock(), []
    return Lines(clock=clock, write=lines.append), clock, lines


@pytest.fixture
def logs() -> Iterator[None]:
    """Logging as it was before."""
    root, package = logging.getLogger(), logging.getLogger("internvl_edge")
    before = root.handlers[:], root.level, package.level
    yield
    root.handlers[:], level, package_level = before
    root.setLevel(level)
    package.setLevel(package_level)


@pytest.mark.parametrize(
    ("done", "unit", "total", "text"),
    [
        (3, "graphs", 5, "3 of 5 graphs"),
        (0.43, "graphs", 5, "0.4 of 5 graphs"),
        (48, "blocks", None, "48 blocks"),
        (1.2e9, BYTES, 11.8e9, "1.2 of 11.8 GB"),
        (0, BYTES, 5_300_000, "0.0 of 5.3 MB"),
        (512, BYTES, None, "512.0 B"),
    ],
)
def test_amounts(done: float, unit: str, total: float | None, text: str) -> None:
    assert amount(done, unit, total) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "00:00"), (59.6, "01:00"), (61, "01:01"), (3_725, "1:02:05")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_time_left_follows_the_pace_up_to_here() -> None:
    stage = Stage("Measuring", 4, "blocks", began=10.0, done=1)
    assert stage.state(40.0) == "Measuring: 1 of 4 blocks (25%), 01:30 left"
    stage.done = 0
    assert stage.state(40.0) == "Measuring: 0 of 4 blocks (0%)"


def test_a_command_that_is_soon_done_is_silent(reporter: tuple[Lines, Clock, list[str]]) -> None:
    progress, clock, lines = reporter
    with progress.task("Tracing", 2, "graphs") as advance:
        clock.now += 9.9
        advance(2)
    assert lines == []


def test_a_long_command_reports_every_stage(reporter: tuple[Lines, Clock, list[str]]) -> None:
    progress, clock, lines = reporter
    with progress.task("Tracing", 2, "graphs") as advance:
        advance(2)
        clock.now += 4
    with progress.task("Writing", 4e9, BYTES) as advance:
        advance(1e9)
        clock.now += 10
        progress.report_due()
    assert lines == [
        "[00:04] Tracing: 2 graphs in 00:04",
        "[00:14] Writing: 1.0 of 4.0 GB (25%), 00:30 left",
        "[00:14] Writing: 1.0 GB in 00:10",
    ]


def test_lines_of_one_stage_become_rarer(reporter: tuple[Lines, Clock, list[str]]) -> None:
    progress, clock, lines = reporter
    with progress.task("Tracing", 2, "graphs"):
        for _ in range(300):
            clock.now += 1
            progress.report_due()
    minutes = [f"0{minute}:00" for minute in range(1, 6)]
    assert [line[1:6] for line in lines] == [*(f"00:{second}" for second in range(10, 60, 10)), *minutes, "05:00"]


def test_a_failed_stage_is_not_reported_as_done(reporter: tuple[Lines, Clock, list[str]]) -> None:
    progress, clock, lines = reporter

    def fail() -> None:
        with progress.task("Tracing", 2, "graphs"):
            clock.now += 60
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert lines == []


def test_lines_come_while_nothing_advances(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("internvl_edge.commands.output.progress.QUIET_SECONDS", 0.5)
    monkeypatch.setattr("internvl_edge.commands.output.progress._LINE_SECONDS", 0.5)
    with shown_progress() as progress, progress.task("Building", 1, "graphs"):
        deadline = time.monotonic() + HANG_S
        while "Building: 0 of 1 graphs" not in (text := capsys.readouterr().err):
            assert time.monotonic() < deadline, text
            time.sleep(0.1)
    assert [thread.name for thread in threading.enumerate() if thread.name == "progress"] == []


@pytest.mark.parametrize(("verbosity", "ours", "theirs"), [(0, False, False), (1, True, False), (2, True, True)])
@pytest.mark.usefixtures("logs")
def test_verbosity(verbosity: int, ours: bool, theirs: bool, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(verbosity)
    logging.getLogger("third_party").info("theirs")
    logging.getLogger("third_party").warning("warned")
    with Lines() as progress, progress.task("Tracing", 2, "graphs") as advance:
        advance(2)
    text = capsys.readouterr().err
    assert ("INFO internvl_edge.commands.output.progress: Tracing: 2 graphs to do" in text) is ours
    assert ("INFO internvl_edge.commands.output.progress: Tracing: 2 graphs in 00:00" in text) is ours
    assert ("INFO third_party: theirs" in text) is theirs
    assert "WARNING third_party: warned" in text


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.usefixtures("logs")
def test_bars_on_a_terminal_stand_below_what_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    configure_logging(1)
    with shown_progress() as progress:
        assert isinstance(progress, Bars)
        with progress.task("Tracing", 2, "graphs") as advance, progress.task("Inner", 1, "blocks"):
            advance(0.5)
            logging.getLogger("internvl_edge.test").info("between")
            advance(1.5)
        print("a result on stderr", file=sys.stderr)
        with progress.task("Verifying", 2, "graphs") as advance:
            advance(2)
    text = screen.getvalue()
    assert "2 of 2 graphs" in text
    assert "INFO internvl_edge.test: between" in text
    assert sys.stderr is screen
