"""Time and peak memory of building plans of InternViT-6B for sm_89: `build_scale.py FOLDER`.

Writes tens of GB of random checkpoints, bundles and plans below FOLDER and removes each when measured. The peak is
that of the process which builds a plan (VmHWM), the larger of all parts and of the command that starts them.
"""

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
from export_scale import machine, measured
from random_checkpoint import write_checkpoint

TARGET = "rtx-4090"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    what: str
    weight_gib: float
    plans: int
    plan_gib: float
    seconds: float
    peak_gib: float
    wanted: str


def command(*words: object) -> list[str]:
    """Return the command line of `internvl-edge`."""
    return [sys.executable, "-m", "internvl_edge.cli", *map(str, words)]


def built(bundle: Path, what: str, limit: str | None, wanted: str) -> Row:
    """Build the plan of `vision` within `limit` of host memory, measure it, and remove it."""
    options = ["--max-host-mem", limit] if limit else []
    engines = bundle / "engines"
    try:
        seconds, parent = measured(command("build", bundle, "--target", TARGET, "--graphs", "vision", *options))
        record = json.loads((engines / TARGET / "engine.json").read_text())
    finally:
        shutil.rmtree(engines, ignore_errors=True)
    plans = record["graphs"]["vision"]["plans"]
    stored = sum(path.stat().st_size for path in (bundle / "onnx").rglob("*.safetensors"))
    return Row(
        what=f"{what}, {limit or 'unlimited'}",
        weight_gib=stored / 2**30,
        plans=len(plans),
        plan_gib=sum(plan["bytes"] for plan in plans) / 2**30,
        seconds=seconds,
        peak_gib=max(parent, *(plan["peak_bytes"] / 2**30 for plan in plans)),
        wanted=wanted,
    )


def int8(folder: Path, layers: int | None) -> Iterator[Row]:
    """Measure InternViT-6B in INT8, as a whole and in parts of at most 6 GiB."""
    checkpoint, bundle = folder / "checkpoint", folder / "bundle"
    try:
        write_checkpoint(checkpoint, "internvit-6b", layers)
        quantize = ["--precision", "int8", "--data", "random", "--calibration-samples", 16, "--gate-samples", 0]
        measured(command("export", checkpoint, "-o", bundle, "--sample-count", 1, *quantize))
        shutil.rmtree(checkpoint)
        yield built(bundle, "InternViT-6B, int8", None, "<= 90 s, 14 GiB")
        yield built(bundle, "InternViT-6B, int8", "6GiB", "<= 6 GiB")
    finally:
        for path in (checkpoint, bundle):
            shutil.rmtree(path, ignore_errors=True)


def fp16(folder: Path, layers: int | None) -> Iterator[Row]:
    """Measure InternViT-6B in fp16, which does not fit into 24 GiB of memory as a whole."""
    checkpoint, bundle = folder / "checkpoint", folder / "bundle"
    try:
        write_checkpoint(checkpoint, "internvit-6b", layers)
        measured(command("export", checkpoint, "-o", bundle, "--sample-count", 1))
        yield built(bundle, "InternViT-6B, fp16", "12GiB", "builds")
    finally:
        for path in (checkpoint, bundle):
            shutil.rmtree(path, ignore_errors=True)


CASES = {"int8": int8, "fp16": fp16}


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--case", "cases", multiple=True, type=click.Choice(sorted(CASES)), help="Default: all.")
@click.option("--layers", type=click.IntRange(1), help="Vision blocks; default: all 48.")
def main(folder: Path, cases: tuple[str, ...], layers: int | None) -> None:
    """Measure builds below FOLDER and print a Markdown table."""
    folder.mkdir(parents=True, exist_ok=True)
    click.echo(f"{machine()}\n")
    click.echo("| what, limit | weights GiB | plans | plan GiB | seconds | peak GiB | wanted |")
    click.echo("| --- | ---: | ---: | ---: | ---: | ---: | --- |")
    for name in cases or CASES:
        for row in CASES[name](folder, layers):
            click.echo(
                f"| {row.what} | {row.weight_gib:.2f} | {row.plans} | {row.plan_gib:.2f} | {row.seconds:.0f} | "
                f"{row.peak_gib:.2f} | {row.wanted} |"
            )


if __name__ == "__main__":
    main()
