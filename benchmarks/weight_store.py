"""Time of writing the weight store and of `cp` of the same bytes: `python benchmarks/weight_store.py FOLDER`.

InternViT-6B with random weights in fp16: 12 GB for the checkpoint below FOLDER, and 12 GB for each copy, one at a time.
Both are timed until the bytes are on the disk, in turn, since other work on the machine slows both.
"""

import os
import shutil
import statistics
import subprocess
import time
from pathlib import Path

import click
from export_scale import machine
from random_checkpoint import write_checkpoint

from internvl_edge.export.checkpoint import open_checkpoint
from internvl_edge.export.checkpoint.store.source_scan import SourceScan
from internvl_edge.export.checkpoint.store.weight_store import plan_weights, shared_files, write_store


def copied(checkpoint: Path, folder: Path) -> float:
    """Return the seconds of `cp`."""
    shutil.rmtree(folder, ignore_errors=True)
    start = time.monotonic()
    subprocess.run(["cp", "-r", str(checkpoint), str(folder)], check=True)
    os.sync()
    return time.monotonic() - start


def stored(checkpoint: Path, folder: Path) -> tuple[float, float]:
    """Return the seconds of writing the store of `--weights auto`, and its size in GB."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    tensors = [*open_checkpoint(str(checkpoint)).tensors.values()]
    start = time.monotonic()
    plan = plan_weights(tensors, "float16", shared_files(tensors, "float16", "auto", folder))
    with SourceScan(plan.shared) as scan:
        files = write_store(plan, folder, scan, lambda _: None)
    os.sync()
    return time.monotonic() - start, sum(file.bytes for file in files.values()) / 1e9


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--layers", type=int, default=48, show_default=True)
@click.option("--runs", type=int, default=3, show_default=True)
def main(folder: Path, layers: int, runs: int) -> None:
    """Print a Markdown table."""
    checkpoint = folder / "checkpoint"
    write_checkpoint(checkpoint, "internvit-6b", layers)
    os.sync()
    times, size = [], 0.0
    try:
        for _ in range(runs):
            cp = copied(checkpoint, folder / "copy")
            shutil.rmtree(folder / "copy")
            store, size = stored(checkpoint, folder / "store")
            shutil.rmtree(folder / "store")
            times.append((cp, store))
    finally:
        shutil.rmtree(folder)
    click.echo(f"{machine()}\n\n| GB of weights | cp, s | store, s | ratio |\n| ---: | ---: | ---: | ---: |")
    for cp, store in times:
        click.echo(f"| {size:.2f} | {cp:.1f} | {store:.1f} | {store / cp:.2f} |")
    click.echo(f"\nmedian ratio {statistics.median(store / cp for cp, store in times):.2f} (wanted: <= 1.30)")


if __name__ == "__main__":
    main()
