"""Time and peak memory of calibration and INT8 export at full size: `quant_scale.py FOLDER`.

Writes tens of GB of random checkpoints, ranges and bundles below FOLDER and removes each when it is measured.
"""

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from export_scale import Row, machine, measured
from random_checkpoint import write_checkpoint

from internvl_edge.calib.measure_ranges import compute_type
from internvl_edge.export.checkpoint import open_checkpoint
from internvl_edge.export.models.config import ModelConfig, QllamaConfig

PICTURES = 32
TEXT_LENGTH = 16
"""Number of tokens in each text that is used with random pictures."""
RANDOM_ATOL = "5"
"""Tolerance of the export: towers of random weights amplify rounding, and only time and memory are measured."""
CHUNK_ROWS = 2056
"""Number of rows in one product: 8 pictures of 257 tokens."""

Product = tuple[int, int, int]
"""Rows, input channels and output channels of one product."""


def vision_products(config: ModelConfig) -> list[Product]:
    """Return the products of the linears of one block on all pictures."""
    vision = config.vision
    rows, width, inner = PICTURES * vision.tokens, vision.hidden_size, vision.intermediate_size
    return [(rows, width, 3 * width), (rows, width, width), (rows, width, inner), (rows, inner, width)]


def text_products(config: ModelConfig, layer: int) -> list[Product]:
    """Return the products of the linears of QLLaMA block `layer` in query, decoder, text and itm."""
    text = config.need(QllamaConfig)
    width, inner, queries = text.hidden_size, text.intermediate_size, text.num_queries
    rows = PICTURES * (queries + TEXT_LENGTH + TEXT_LENGTH + queries + TEXT_LENGTH)
    found = [(rows, width, width)] * 4 + [(rows, width, inner)] * 2 + [(rows, inner, width)]
    if layer in text.cross_attention_layers:
        seen, asked = 2 * PICTURES * config.vision.tokens, 2 * PICTURES * queries
        found += [(asked, width, width)] * 2 + [(seen, text.vision_hidden_size, width)] * 2
    return found


def bare_seconds(blocks: list[list[Product]], dtype: torch.dtype) -> float:
    """Return the seconds of the products alone, in the type in which calibration multiplies."""
    held: dict[tuple[int, ...], torch.Tensor] = {}

    def random(*shape: int) -> torch.Tensor:
        if shape not in held:
            held[shape] = torch.randn(shape).to(dtype)
        return held[shape]

    start = time.monotonic()
    with torch.no_grad():
        for products in blocks:
            for rows, inputs, outputs in products:
                for first in range(0, rows, CHUNK_ROWS):
                    F.linear(random(min(CHUNK_ROWS, rows - first), inputs), random(outputs, inputs))
    return time.monotonic() - start


def case(folder: Path, preset: str, layers: int | None, text_layers: int | None, what: str) -> Iterator[Row]:
    """Calibrate random pictures on `preset`, write its INT8 bundle, and time the bare products before and after."""
    checkpoint, ranges, bundle = folder / "checkpoint", folder / "ranges", folder / "bundle"
    size = write_checkpoint(checkpoint, preset, layers, text_layers=text_layers) / 1e9
    config = open_checkpoint(checkpoint).config
    blocks = [vision_products(config)] * config.vision.num_layers
    if (text := config.find(QllamaConfig)) is not None:
        blocks += [text_products(config, layer) for layer in range(text.num_layers)]
    command = [sys.executable, "-m", "internvl_edge.cli"]
    kind = compute_type("auto")
    dtype = getattr(torch, kind)
    try:
        before = bare_seconds(blocks, dtype)
        data = ["--data", "random", "--sample-count", str(PICTURES)]
        seconds, peak = measured([*command, "calibrate", str(checkpoint), "-o", str(ranges), *data])
        bare = (before + bare_seconds(blocks, dtype)) / 2
        yield Row(what=f"{what}: bare products ({kind})", gigabytes=None, seconds=bare, peak_gib=None, wanted="")
        yield Row(
            what=f"{what}: calibrate, {PICTURES} pictures ({seconds / bare:.2f} x bare)",
            gigabytes=size,
            seconds=seconds,
            peak_gib=peak,
            wanted="<= 1.5 x bare, 4 GiB",
        )
        options = ["--precision", "int8", "--ranges", str(ranges), "--gate-samples", "0", "--sample-count", "1"]
        options += ["--atol", RANDOM_ATOL]
        seconds, peak = measured([*command, "export", str(checkpoint), "-o", str(bundle), *options])
        yield Row(
            what=f"{what}: export --precision int8", gigabytes=size, seconds=seconds, peak_gib=peak, wanted="4 GiB"
        )
    finally:
        for path in (checkpoint, ranges, bundle):
            shutil.rmtree(path, ignore_errors=True)


def six_billion(folder: Path, text_layers: int) -> Iterator[Row]:
    """Measure InternViT-6B, which has no text layers."""
    yield from case(folder, "internvit-6b", None, None, "InternViT-6B")


def qllama(folder: Path, text_layers: int) -> Iterator[Row]:
    """Measure QLLaMA with its embeddings and head, after one vision block."""
    what = f"QLLaMA, {text_layers} layers behind one vision block"
    yield from case(folder, "internvl-14b", 1, text_layers, what)


CASES: dict[str, Callable[[Path, int], Iterator[Row]]] = {"6b": six_billion, "qllama": qllama}


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--case", "cases", multiple=True, type=click.Choice(sorted(CASES)), help="Default: all.")
@click.option("--text-layers", type=click.IntRange(1), default=32, show_default=True, help="QLLaMA's; time is linear.")
def main(folder: Path, cases: tuple[str, ...], text_layers: int) -> None:
    """Measure quantization below FOLDER and print a Markdown table."""
    folder.mkdir(parents=True, exist_ok=True)
    click.echo(f"{machine()}\n")
    click.echo("| what | GB of weights | seconds | peak GiB | wanted |\n| --- | ---: | ---: | ---: | --- |")
    for name in cases or CASES:
        for row in CASES[name](folder, text_layers):
            size, peak = (f"{v:.2f}" if v is not None else "" for v in (row.gigabytes, row.peak_gib))
            click.echo(f"| {row.what} | {size} | {row.seconds:.3g} | {peak} | {row.wanted} |")


if __name__ == "__main__":
    main()
