"""Progress of long work on stderr: bars on a terminal, and elsewhere a line at intervals."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from internvl_edge.runtime.progress import BYTES, Advance

logger = logging.getLogger(__name__)

QUIET_SECONDS = 10.0
"""Time in seconds within which a command prints no progress."""
_LINE_SECONDS = 10.0
_LATER_LINE_SECONDS = 60.0
"""Seconds between two lines of a stage: in its first minute, and later."""
_FIRST_MINUTE = 60.0


def shown_progress(*, redraw_on_advance: bool = False, transient: bool = False) -> "Bars | Lines":
    """Return bars where stderr is a terminal, else lines.

    Args:
        redraw_on_advance: Draw bars only when something advances, since drawing in between would disturb a measurement.
        transient: Remove bars from the terminal when they are done.
    """
    return Bars(redraw_on_advance=redraw_on_advance, transient=transient) if sys.stderr.isatty() else Lines()


@dataclass(slots=True)
class Stage:
    """One task: its amount of work, how much of it is done, and when it began."""

    label: str
    total: float
    unit: str
    began: float
    done: float = 0.0
    reported: float = field(default=0.0)
    """Time at which a line about it was last written."""

    def state(self, now: float) -> str:
        """Return a text with the amount that is done and the time that is left."""
        rest = self.rest(now)
        left = f", {duration(rest)} left" if rest is not None else ""
        percent = f" ({self.done / self.total:.0%})" if self.total else ""
        return f"{self.label}: {amount(self.done, self.unit, self.total)}{percent}{left}"

    def end(self, now: float) -> str:
        """Return a text with the amount that was done and the time that it took."""
        return f"{self.label}: {amount(self.done, self.unit)} in {duration(now - self.began)}"

    def rest(self, now: float) -> float | None:
        """Return the seconds that are left at the speed so far; None before anything is done."""
        return (now - self.began) * (self.total - self.done) / self.done if 0 < self.done < self.total else None


def amount(done: float, unit: str, total: float | None = None) -> str:
    """Return a text with the amount that is done, and `total` if it is given: ``3 of 5 graphs``, ``1.2 of 11.8 GB``."""
    size, name, digits = 1.0, f" {unit}", 0
    if unit == BYTES:
        scale = max(done, total or 0)
        size, name = next(((s, n) for s, n in ((1e9, " GB"), (1e6, " MB"), (1e3, " kB")) if scale >= s), (1.0, " B"))
        digits = 1
    parts = [done] if total is None else [done, total]
    return " of ".join(_number(part / size, digits) for part in parts) + name


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if digits else f"{value:.1f}".removesuffix(".0")


def duration(seconds: float) -> str:
    """Return a time as ``mm:ss``, or ``h:mm:ss`` from an hour on."""
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{whole:02}" if hours else f"{minutes:02}:{whole:02}"


class Lines:
    """Writes a line for each stage to stderr, and several for a long one; nothing for a short command.

    With ``-v`` each stage is a log record instead.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, write: Callable[[str], None] | None = None) -> None:
        self._clock = clock
        self._write = write or _write
        self._began = clock()
        self._running: list[Stage] = []
        self._held: list[str] = []
        """Lines of stages that ended before the first line was due."""
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def __enter__(self) -> "Lines":
        """Start the thread that writes lines."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the thread that writes lines."""
        self._stop.set()
        self._thread.join()

    @contextmanager
    def task(self, label: str, total: float, unit: str) -> Iterator[Advance]:
        """Begin a stage of `total` units; yields a function that adds to what is done."""
        stage = Stage(label, total, unit, self._clock())
        stage.reported = stage.began
        logger.info("%s: %s to do", label, amount(total, unit))
        with self._lock:
            self._running.append(stage)

        def advance(more: float) -> None:
            with self._lock:
                stage.done += more

        try:
            yield advance
            self._ended(stage)
        finally:
            with self._lock:
                self._running.remove(stage)

    def report_due(self) -> None:
        """Write the lines that are due: after `QUIET_SECONDS` those of ended stages, then those of running ones."""
        now = self._clock()
        if now - self._began < QUIET_SECONDS:
            return
        with self._lock:
            held, self._held = self._held, []
            due = [stage for stage in self._running if now - stage.reported >= _pause(now - stage.began)]
            for stage in due:
                stage.reported = now
            lines = [*held, *(self._line(stage.state(now), now) for stage in due)]
        for line in lines:
            self._write(line)

    def _ended(self, stage: Stage) -> None:
        now = self._clock()
        if logger.isEnabledFor(logging.INFO):
            logger.info("%s", stage.end(now))
            return
        with self._lock:
            self._held.append(self._line(stage.end(now), now))
        self.report_due()

    def _line(self, text: str, now: float) -> str:
        return f"[{duration(now - self._began)}] {text}"

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            self.report_due()


def _pause(seconds: float) -> float:
    return _LINE_SECONDS if seconds <= _FIRST_MINUTE else _LATER_LINE_SECONDS


def _write(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Bars:
    """Draws one bar for each task on stderr while any task runs."""

    def __init__(self, *, redraw_on_advance: bool = False, transient: bool = False) -> None:
        self._redraw_on_advance, self._transient = redraw_on_advance, transient
        self._bars: Any = None
        self._open = 0

    def __enter__(self) -> "Bars":
        """Return itself; nothing is drawn before there is a task."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing."""
        if self._bars is not None:
            self._bars.stop()

    @contextmanager
    def task(self, label: str, total: float, unit: str) -> Iterator[Advance]:
        """Begin a bar of `total` units; yields a function that adds to what is done."""
        stage = Stage(label, total, unit, time.monotonic())
        if self._open == 0:
            self._bars = _new_bars(self._redraw_on_advance, self._transient)
            self._bars.start()
        self._open += 1
        logger.info("%s: %s to do", label, amount(total, unit))
        bar = self._bars.add_task(label, total=total, done=amount(0, unit, total))

        def advance(more: float) -> None:
            stage.done += more
            self._bars.update(
                bar, completed=stage.done, done=amount(stage.done, unit, total), refresh=self._redraw_on_advance
            )

        try:
            yield advance
            logger.info("%s", stage.end(time.monotonic()))
        finally:
            self._open -= 1
            if self._open == 0:
                self._bars.stop()


def _new_bars(redraw_on_advance: bool, transient: bool) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[done]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(
        *columns,
        console=Console(stderr=True),
        redirect_stdout=False,
        auto_refresh=not redraw_on_advance,
        transient=transient,
    )
