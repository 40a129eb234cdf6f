"""Time of commands while other processes keep half of the cores busy: `python benchmarks/shared_machine.py`.

Every command runs idle and busy in turn. With one of two cores taken a command that computes on one thread takes as
long as before, and one that computes on both at most twice as long, if no thread waits for one that sleeps.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZipFile

import click
from export_scale import machine

EXAMPLE = Path(__file__).parent.parent / "examples" / "emoji"
WANTED = 3.0
"""Largest ratio of the time on busy cores to that on idle cores."""


@contextmanager
def taken_cores(processes: int) -> Iterator[None]:
    """Keep as many cores busy as there are processes, until the block ends."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def seconds_of(*arguments: object) -> float:
    """Return the seconds of a command."""
    started = time.monotonic()
    subprocess.run([command(), *map(str, arguments)], check=True, capture_output=True)
    return time.monotonic() - started


def command() -> Path:
    """Return the path of a program of this environment."""
    return Path(sys.executable).with_name("internvl-edge")


class Commands:
    """Commands whose time is measured, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pictures = folder / "pictures"
        with ZipFile(EXAMPLE / "data" / "test.zip") as archive:
            archive.extractall(self._pictures)
        self._export()

    def calibrate(self) -> float:
        """Return the seconds of `calibrate` on 128 pictures."""
        data = EXAMPLE / "data" / "calibration.jsonl"
        return self._writes("ranges", "calibrate", EXAMPLE / "checkpoint", "--data", data)

    def verify(self) -> float:
        """Return the seconds of the stage that verifies all graphs."""
        self._export()
        seconds: float = json.loads((self._folder / "bundle" / "reports" / "export.json").read_text())["seconds"][
            "verify"
        ]
        return seconds

    def evaluate(self) -> float:
        """Return the seconds of `eval` on 128 pictures."""
        data = EXAMPLE / "data" / "test.jsonl"
        return seconds_of("eval", self._folder / "bundle", "--data", data, "--sample-count", 128)

    def retrieve(self) -> float:
        """Return the seconds of `run retrieve` on two pictures, and two texts."""
        pictures = sorted(self._pictures.rglob("*.png"))[:2]
        return seconds_of("run", "retrieve", self._folder / "bundle", *pictures, "-t", "gem stone", "-t", "a pizza")

    def embed(self) -> float:
        """Return the seconds of `run embed` on all test pictures."""
        return self._writes("features.npz", "run", "embed", self._folder / "bundle", self._pictures)

    def _export(self) -> float:
        shutil.rmtree(self._folder / "bundle", ignore_errors=True)
        return seconds_of("export", EXAMPLE / "checkpoint", "-o", self._folder / "bundle")

    def _writes(self, name: str, *arguments: object) -> float:
        output = self._folder / name
        seconds = seconds_of(*arguments, "-o", output)
        shutil.rmtree(output) if output.is_dir() else output.unlink(missing_ok=True)
        return seconds


def timed(call: Callable[[], float], runs: int, processes: int) -> tuple[list[float], list[float]]:
    """Return the seconds of a command idle and busy, in turn."""
    idle, busy = [], []
    for _ in range(runs):
        idle.append(call())
        with taken_cores(processes):
            busy.append(call())
    return idle, busy


def row(name: str, idle: Sequence[float], busy: Sequence[float]) -> str:
    """Return a line of the table; the ratio is the median of the pairs."""
    ratio = statistics.median(b / a for a, b in zip(idle, busy, strict=True))
    mark = "" if ratio <= WANTED else " (too long)"
    return f"| {name} | {statistics.median(idle):.1f} | {statistics.median(busy):.1f} | {ratio:.2f}{mark} |"


@click.command()
@click.option("--runs", type=click.IntRange(1), default=3, show_default=True)
@click.option("--only", multiple=True, help="Of calibrate, verify, evaluate, retrieve, embed.")
def main(runs: int, only: tuple[str, ...]) -> None:
    """Print a Markdown table."""
    processes = max(1, (os.cpu_count() or 1) // 2)
    click.echo(f"{machine()}; {processes} taken, load before {os.getloadavg()[0]:.1f}\n")
    click.echo(f"| command | idle, s | busy, s | ratio (wanted: <= {WANTED:g}) |\n| --- | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        commands = Commands(Path(folder))
        calls = {
            "calibrate": commands.calibrate,
            "verify": commands.verify,
            "evaluate": commands.evaluate,
            "retrieve": commands.retrieve,
            "embed": commands.embed,
        }
        for name, call in calls.items():
            if not only or name in only:
                click.echo(row(name, *timed(call, runs, processes)))


if __name__ == "__main__":
    main()
