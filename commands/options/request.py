"""What every command that runs a task may be told: backend, threads, limits, and to show where the time goes."""

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from internvl_edge.commands.options.numbers import THREADS
from internvl_edge.commands.options.parameters import BACKEND, BF16
from internvl_edge.runtime.monitor import Monitor
from internvl_edge.runtime.stages import UNMEASURED, Stages

if TYPE_CHECKING:
    from internvl_edge.runtime import InternVL


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Settings of one request."""

    backend: str
    threads: int | None
    bf16: bool
    max_pixels: int | None
    latency: bool

    @contextmanager
    def open(self, bundle: Path, batch_size: int | None = None) -> "Iterator[tuple[InternVL, Stages]]":
        """Open `bundle` for the block, for batches if their size is given.

        Yields the model and where the times of its calls are kept, which are shown behind the block if asked for.
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
    """Open `bundle`, whose files are checked first, and show on stderr that this goes on while it takes long."""
    from internvl_edge.commands.output.progress import shown_progress
    from internvl_edge.runtime import InternVL

    with shown_progress(transient=True) as progress, progress.task("Opening", 1, "bundle") as advance:
        model = InternVL.open(bundle, **settings)
        advance(1)
    return model


@contextmanager
def work_progress(stages: Stages, label: str, total: int, unit: str = "pictures") -> Iterator[Monitor]:
    """Show on stderr how many of `total` pictures are done while the block takes long; prints nothing else.

    Yields what the block passes with its call; times are kept in `stages`.
    """
    from internvl_edge.commands.output.progress import shown_progress

    with shown_progress(transient=True) as progress, progress.task(label, total, unit) as advance:
        yield Monitor(stages=stages, advance=advance)


def request_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options, which reach `command` as one `request`."""

    @BACKEND
    @click.option(
        "--threads", type=THREADS, help="Threads of a CPU backend.  [default: one for a small graph, else all]"
    )
    @BF16
    @click.option(
        "--max-pixels",
        type=click.IntRange(0, 2**40),
        help="Pixels that a picture may have; 0: any number.  [default: 89478485]",
    )
    @click.option("--latency", is_flag=True, help="Show on stderr where the time of the request went.")
    @functools.wraps(command)
    def call(*args: Any, **settings: Any) -> None:
        request = Request(**{field.name: settings.pop(field.name) for field in fields(Request)})
        command(*args, request=request, **settings)

    return call
