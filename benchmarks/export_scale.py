"""Time and peak memory of exports at full size: `python benchmarks/export_scale.py FOLDER`.

Writes tens of GB of random checkpoints and bundles below FOLDER and removes each when it is measured.
"""

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
from random_checkpoint import write_checkpoint

LAYERS = (12, 24, 36, 48)
IMPORT_RUNS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    what: str
    gigabytes: float | None
    seconds: float
    peak_gib: float | None
    wanted: str


def measured(command: Sequence[str]) -> tuple[float, float]:
    """Run `command`; return its wall seconds and its peak resident memory in GiB, from the kernel's accounting."""
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise click.ClickException(f"{' '.join(command)}: exit code {process.returncode}")
    return time.monotonic() - start, usage.ru_maxrss / 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """Cost of one export, as a whole and by stage."""

    seconds: float
    peak_gib: float
    stages: dict[str, float]


def export(checkpoint: Path, bundle: Path, weights: str) -> Export:
    """Export as the command does: trace, link or write, digest, and verify on one picture and text."""
    options = ["--weights", weights, "--sample-count", "1"]
    command = [sys.executable, "-m", "internvl_edge.cli", "export", str(checkpoint), "-o", str(bundle), *options]
    try:
        seconds, peak = measured(command)
        report = json.loads((bundle / "reports" / "export.json").read_text())
        return Export(seconds=seconds, peak_gib=peak, stages=report["seconds"])
    finally:
        shutil.rmtree(bundle, ignore_errors=True)


def export_row(what: str, gigabytes: float, done: Export, wanted: str) -> Row:
    """Return the line of one export, its stages beside what was wanted."""
    stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in done.stages.items() if seconds >= 0.1)
    return Row(
        what=f"{what} ({stages})", gigabytes=gigabytes, seconds=done.seconds, peak_gib=done.peak_gib, wanted=wanted
    )


def six_billion(folder: Path) -> list[Row]:
    """Measure InternViT-6B in fp16: by default, with links, and `cp` of the same bytes."""
    checkpoint = folder / "internvit-6b"
    size = write_checkpoint(checkpoint, "internvit-6b") / 1e9
    cp, _ = measured(["cp", "-r", str(checkpoint), str(folder / "cp")])
    shutil.rmtree(folder / "cp")
    auto = export(checkpoint, folder / "bundle", "auto")
    link = export(checkpoint, folder / "bundle", "link")
    shutil.rmtree(checkpoint)
    return [
        Row(what="cp of the same bytes", gigabytes=size, seconds=cp, peak_gib=None, wanted=""),
        export_row("InternViT-6B, auto", size, auto, f"weights <= {1.3 * cp:.1f} s (1.3 x cp), 2 GiB"),
        export_row("InternViT-6B, link", size, link, "<= 60 s, 2 GiB"),
    ]


def by_layers(folder: Path) -> list[Row]:
    """Measure towers of 12 to 48 blocks with links; memory should be constant and time linear."""
    rows = []
    for layers in LAYERS:
        checkpoint = folder / f"layers-{layers}"
        size = write_checkpoint(checkpoint, "internvit-6b", layers) / 1e9
        rows.append(export_row(f"{layers} blocks, link", size, export(checkpoint, folder / "bundle", "link"), ""))
        shutil.rmtree(checkpoint)
    peaks = [row.peak_gib or 0 for row in rows]
    slope, intercept = statistics.linear_regression(LAYERS, [row.seconds for row in rows])
    worst = max(abs(row.seconds - intercept - slope * n) / row.seconds for n, row in zip(LAYERS, rows, strict=True))
    memory = f"memory max/min {max(peaks) / min(peaks):.2f} (<= 1.10)"
    spread = f"{memory}; time {slope:.2f} s a block + {intercept:.1f} s, off by {worst:.0%}"
    return [*rows[:-1], replace(rows[-1], wanted=spread)]


def fourteen_billion(folder: Path) -> list[Row]:
    """Measure the whole model, with all five graphs and links."""
    checkpoint = folder / "internvl-14b"
    size = write_checkpoint(checkpoint, "internvl-14b") / 1e9
    done = export(checkpoint, folder / "bundle", "link")
    shutil.rmtree(checkpoint)
    return [export_row("InternVL-14B, link", size, done, "<= 2.5 GiB")]


def runtime_import(_: Path) -> list[Row]:
    """Measure `import internvl_edge.runtime` in new interpreters, without their own start, as a median."""
    code = "import time; t = time.perf_counter(); import internvl_edge.runtime; print(time.perf_counter() - t)"
    runs = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(IMPORT_RUNS)]
    return [
        Row(
            what="import internvl_edge.runtime",
            gigabytes=None,
            seconds=statistics.median(runs),
            peak_gib=None,
            wanted="< 0.150 s",
        )
    ]


CASES: dict[str, Callable[[Path], list[Row]]] = {
    "import": runtime_import,
    "6b": six_billion,
    "layers": by_layers,
    "14b": fourteen_billion,
}


def machine() -> str:
    """Return a description of the machine."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "",
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    import torch

    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, no GPU; {versions}"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--case", "cases", multiple=True, type=click.Choice(sorted(CASES)), help="Default: all.")
def main(folder: Path, cases: tuple[str, ...]) -> None:
    """Measure export below FOLDER and print a Markdown table."""
    folder.mkdir(parents=True, exist_ok=True)
    click.echo(f"{machine()}\n")
    click.echo("| what | GB of weights | seconds | peak GiB | wanted |\n| --- | ---: | ---: | ---: | --- |")
    for name in cases or CASES:
        for row in CASES[name](folder):
            size, peak = (f"{v:.2f}" if v is not None else "" for v in (row.gigabytes, row.peak_gib))
            click.echo(f"| {row.what} | {size} | {row.seconds:.3g} | {peak} | {row.wanted} |")


if __name__ == "__main__":
    main()
