"""`bench`: measure the latency and throughput of the graphs and requests of a bundle on this device."""

import tempfile
from pathlib import Path
from typing import Any

import click

from internvl_edge.commands.options.numbers import MOST_ROWS, SECONDS, Counts
from internvl_edge.commands.options.request import open_with_progress
from internvl_edge.commands.options.sections import SectionedCommand
from internvl_edge.commands.options.shared import BACKEND, BF16, BUNDLE, GRAPHS, Option, tasks, threads
from internvl_edge.commands.options.value_types import FILE, Names
from internvl_edge.commands.output.printing import show

_SLOWER = 3
"""Exit code with ``--fail-on slower`` if a case is slower than the baseline."""

_SECTIONS = {
    "Cases": ("--graphs", "--tasks", "--batch"),
    "Measurement": ("--duration", "--iterations", "--streams", "--percentile"),
    "Sessions": ("--backend", "--threads", "--bf16", "--cuda-graph", "--spin"),
    "Files to write": ("--json", "--html", "--trace", "--export-times", "--export-profile", "--export-layer-info"),
    "Comparison": ("--baseline", "--fail-on"),
}


class _Percents(Names):
    """A comma-separated list of percentiles, as `50,90,99.9`."""

    name = "P[,P...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:  # type: ignore[override]
        """Return the numbers."""
        try:
            percents = tuple(float(part) for part in super().convert(value, param, ctx))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers", param, ctx)
        if not all(0 < percent <= 100 for percent in percents):
            self.fail(f"{value!r}: percentiles lie above 0 and up to 100", param, ctx)
        return percents


def _count(name: str, default: int, most: int, words: str) -> Option:
    """Return an option that takes a number from 1 to `most`."""
    return click.option(name, type=click.IntRange(1, most), default=default, show_default=True, help=words)


@click.command(cls=SectionedCommand, sections=_SECTIONS)
@BUNDLE
@GRAPHS
@tasks("image", "text", "caption")
@click.option(
    "--batch",
    "batches",
    type=Counts(1, MOST_ROWS),
    default="1",
    show_default=True,
    help="Numbers of pictures or texts in one call; each is measured as a case of its own.",
)
@click.option(
    "--duration",
    type=SECONDS,
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Shortest time for which a case is measured, in seconds.",
)
@_count("--iterations", 10, 1_000_000, "Smallest number of calls that are measured of a case.")
@_count("--streams", 1, 256, "Number of threads that call one session at the same time.")
@click.option(
    "--percentile",
    "percents",
    type=_Percents(),
    default="50,90,95,99",
    show_default=True,
    help="Percentiles of the latency to print.",
)
@BACKEND
@threads()
@BF16
@click.option(
    "--cuda-graph/--no-cuda-graph",
    default=True,
    show_default=True,
    help="Replay a CUDA graph of the launches for a shape that was run before.",
)
@click.option("--spin/--no-spin", default=False, show_default=True, help="Poll the device for the end of a call.")
@click.option(
    "--json", "json_file", type=FILE, metavar="F", help="File for all figures and times, which --baseline reads."
)
@click.option(
    "--html",
    type=FILE,
    metavar="F",
    help="File for a page with histograms, percentiles, and times of stages and layers.",
)
@click.option("--trace", type=FILE, metavar="F", help="File for spans that Perfetto or chrome://tracing shows.")
@click.option(
    "--export-times", type=FILE, metavar="F", help="File for the time of each call, as trtexec's --exportTimes."
)
@click.option(
    "--export-profile", type=FILE, metavar="F", help="File for the times of layers, as trtexec's --exportProfile."
)
@click.option(
    "--export-layer-info", type=FILE, metavar="F", help="File for facts about layers, as trtexec's --exportLayerInfo."
)
@click.option(
    "--baseline",
    type=FILE,
    metavar="F",
    help="File that --json wrote in an earlier run; each case is faster, slower or equal.",
)
@click.option(
    "--fail-on", type=click.Choice(["slower"]), help="Exit with code 3 if a case is slower than the baseline."
)
@click.pass_context
def bench(
    ctx: click.Context,
    /,
    bundle: Path,
    graphs: tuple[str, ...] | None,
    tasks: tuple[str, ...] | None,
    batches: tuple[int, ...],
    backend: str,
    duration: float,
    iterations: int,
    streams: int,
    percents: tuple[float, ...],
    threads: int | None,
    bf16: bool,
    cuda_graph: bool,
    spin: bool,
    baseline: Path | None,
    fail_on: str | None,
    **files: Path | None,
) -> None:
    """Measure the graphs of BUNDLE and whole requests on this device.

    Ctrl-C ends the measurement, prints what was measured until then, and exits with code 130.
    """
    from internvl_edge.commands.output.progress import shown_progress
    from internvl_edge.runtime.backends import SessionOptions
    from internvl_edge.runtime.backends.selection.conditions import host_conditions
    from internvl_edge.runtime.latency.bench import BenchOptions, run_cases
    from internvl_edge.runtime.latency.cases import CaseSelection, cases_of
    from internvl_edge.runtime.latency.interrupt import STOPPED, finish_on_interrupt
    from internvl_edge.runtime.latency.measure.measure import MeasureOptions
    from internvl_edge.runtime.latency.report.files import LAYERED, write_files
    from internvl_edge.runtime.latency.report.latency_report import Report, case_text, read_baseline
    from internvl_edge.runtime.outputs.files import require_writable, takes_stdout

    if fail_on and baseline is None:
        raise click.UsageError("--fail-on needs --baseline")
    files["json"] = files.pop("json_file")
    chosen_files = [path for path in files.values() if path is not None]
    require_writable(chosen_files)
    to_stderr = takes_stdout(chosen_files)
    earlier = read_baseline(baseline) if baseline else None
    settings = SessionOptions(threads=threads, bf16=bf16, cuda_graph=cuda_graph, spin=spin, streams=streams)
    model = open_with_progress(bundle, backend=backend, batch_size=max(batches), options=settings)
    options = BenchOptions(
        measure=MeasureOptions(seconds=duration, calls=iterations, streams=streams),
        percents=percents,
        layers=any(files[option] for option in LAYERED),
    )
    chosen = CaseSelection(graphs=graphs, tasks=tasks, batches=batches, streams=streams)
    report = Report(
        bundle=str(bundle), precision=model.bundle.manifest.precision, host=host_conditions(), baseline=earlier
    )
    with (
        tempfile.TemporaryDirectory(prefix="internvl-edge-") as folder,
        finish_on_interrupt() as stop,
        shown_progress(redraw_on_advance=True) as progress,
    ):
        cases = cases_of(model, chosen, Path(folder))
        show(f"{report.bundle} ({report.precision}), {len(cases)} cases", to_stderr=to_stderr)
        for summary in run_cases(model, cases, options, stop, progress):
            report = report.with_case(summary)
            show(f"\n{case_text(report, summary)}", to_stderr=to_stderr)
        report = report.ended(stopped=stop.is_set())
    written = write_files(report, files)
    for path in written:
        click.echo(f"Written: {path}", err=True)
    if report.stopped:
        click.echo(f"\nStopped by Ctrl-C after {len(report.cases)} of {len(cases)} cases.", err=True)
        ctx.exit(STOPPED)
    if fail_on and report.slower():
        ctx.exit(_SLOWER)
