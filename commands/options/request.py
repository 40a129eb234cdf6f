"""Options of every command that runs a task: backend, threads, limit of pixels, and whether to show latencies."""

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from internvl_edge.commands.options.shared import BACKEND, BF16, max_pixels, threads
from internvl_edge.runtime.monitor import Monitor
from internvl_edge.runtime.stages import UNMEASURED, Stages

if TYPE_CHECKING:
    from internvl_edge.runtime import InternVL


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Settings of one request, as the options give them."""

    backend: str
    threads: int | None
    bf16: bool
    max_pixels: int | None
    latency: bool

    @contextmanager
    def open(self, bundle: Path, batch_size: int | None = None) -> "Iterator[tuple[InternVL, Stages]]":
        """Open `bundle` for a block of code, for batches of `batch_size` rows if it is given.

        Yields the model and the record of the times of its calls, which is printed after the block with --latency.
        """
        from internvl_edge.runtime.backends import SessionOptions
        from internvl_edge.runtime.inputs.pictures.decode import limit_pixels
        from internvl_edge.runtime.tasks.opened import BATCH_SIZE

        if self.max_pixels is not None:
            limit_pixels(self.max_pixels or None)
        options = SessionOptions(threads=self.threads, bf16=self.bf16, rows=batch_size or 1)
        model = open_with_progress(bundle, backend=self.backend, batch_size=batch_size or BATCH_SIZE, options=options)
        stages = Stages() if self.latency else UNMEASURED
        start = time.perf_counter()
        try:
            yield model, stages
            if self.latency:
                from internvl_edge.runtime.latency.measure.stage_times import request_report

                click.echo(request_report(stages, time.perf_counter() - start), err=True)
        finally:
            model.close()


def open_with_progress(bundle: Path, **settings: Any) -> "InternVL":
    """Open `bundle`, whose files are checked first; progress is shown on stderr while this takes long."""
    from internvl_edge.commands.output.progress import shown_progress
    from internvl_edge.runtime import InternVL

    with shown_progress(transient=True) as progress, progress.task("Opening", 1, "bundle") as advance:
        model = InternVL.open(bundle, **settings)
        advance(1)
    return model


@contextmanager
def work_progress(stages: Stages, label: str, total: int, unit: str = "pictures") -> Iterator[Monitor]:
    """Show on stderr how many of `total` units are done while the block takes long.

    Yields the monitor that the block passes with its call; times are recorded in `stages`.
    """
    from internvl_edge.commands.output.progress import shown_progress

    with shown_progress(transient=True) as progress, progress.task(label, total, unit) as advance:
        yield Monitor(stages=stages, advance=advance)


def request_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a request, which reach `command` as the one argument `request`."""

    @BACKEND
    @threads()
    @BF16
    @max_pixels()
    @click.option("--latency", is_flag=True, help="Print the time of each stage of the request to stderr.")
    @functools.wraps(command)
    def call(*args: Any, **settings: Any) -> None:
        request = Request(**{field.name: settings.pop(field.name) for field in fields(Request)})
        command(*args, request=request, **settings)

    return call
