"""Pictures per second of `run embed` against the bare graph's, interleaved in one run: `embed.py BUNDLE PICTURES`.

The bare rate is that of the graphs alone on batches of pixel values that lie in memory. Both are given as medians over
the rounds, and the ratio as the median of the rounds' ratios. `random:4` as BUNDLE is a tower of 4 random blocks of
InternViT-300M's size at 224 px, under InternVL-C's head.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from PIL import Image
from random_checkpoint import PRESETS, write_checkpoint

from internvl_edge.runtime import InternVL
from internvl_edge.runtime.backends import SessionOptions
from internvl_edge.runtime.pipeline.embedding import EmbedOptions, embed
from internvl_edge.runtime.pipeline.sources import SourcePicture, find_pictures

if TYPE_CHECKING:
    from internvl_edge.runtime.model import Mode

_NOISE = 12
"""Deviation of the noise on made photographs: JPEGs of 640 x 480 have 120 KB with it, as photographs do."""


@click.command()
@click.argument("bundle")
@click.argument("pictures", type=click.Path(path_type=Path))
@click.option("--count", default=2000, show_default=True, help="Pictures; of fewer in the source, some come twice.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--photographs", is_flag=True, help="Take noisy JPEGs of 640 x 480 made of the pictures.")
@click.option("--mode", type=click.Choice(["c", "g"]), default="c", show_default=True)
@click.option("--batch-size", default=32, show_default=True)
@click.option("--backend", default="auto", show_default=True)
@click.option("--threads", type=int)
@click.option("--workers", type=int)
def main(
    bundle: str,
    pictures: Path,
    count: int,
    rounds: int,
    photographs: bool,
    mode: "Mode",
    batch_size: int,
    backend: str,
    threads: int | None,
    workers: int | None,
) -> None:
    """Print both rates and their ratio."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        opened = _random_bundle(folder, int(bundle[7:])) if bundle.startswith("random:") else Path(bundle)
        found = find_pictures([_photographs(pictures, folder / "photographs", count) if photographs else pictures])
        chosen = [found[index % len(found)] for index in range(count)]
        options = SessionOptions(threads=threads)
        with InternVL.open(opened, backend, batch_size=batch_size, options=options) as model:
            pixels = model.preprocess([picture.content() for picture in chosen[:batch_size]])
            model.encode_image(pixels, mode)
            rates = []
            for _ in range(rounds):
                bare = _bare_rate(model, pixels, count, mode)
                rates.append((bare, _embed_rate(model, chosen, mode, batch_size, workers)))
            settings = ", ".join(f"{key} {value}" for key, value in model.session("vision").settings.items())
    bare, whole = (statistics.median(column) for column in zip(*rates, strict=True))
    ratio = statistics.median(whole / bare for bare, whole in rates)
    source = "photographs of 640 x 480" if photographs else pictures.name
    print(f"{bundle}, mode {mode}, {count} pictures of {source}, batches of {batch_size}, {os.cpu_count()} cores")
    print(settings)
    print(f"graph alone {bare:.1f} pictures/s, run embed {whole:.1f} pictures/s, ratio {ratio:.1%}")
    print("rounds: " + ", ".join(f"{whole / bare:.1%}" for bare, whole in rates))


def _bare_rate(model: InternVL, pixels: np.ndarray, count: int, mode: "Mode") -> float:
    start = time.perf_counter()
    done = 0
    while done < count:
        model.encode_image(pixels[: count - done], mode)
        done += len(pixels)
    return count / (time.perf_counter() - start)


def _embed_rate(
    model: InternVL, pictures: list[SourcePicture], mode: "Mode", batch_size: int, workers: int | None
) -> float:
    """Take the whole call: shards and the file included."""
    with tempfile.TemporaryDirectory() as folder:
        options = EmbedOptions(output=Path(folder) / "f.npy", mode=mode, batch_size=batch_size, workers=workers)
        start = time.perf_counter()
        embed(model, pictures, options)
        return len(pictures) / (time.perf_counter() - start)


def _random_bundle(folder: Path, layers: int) -> Path:
    from internvl_edge.export.compile import export_bundle
    from internvl_edge.export.options import ExportOptions

    tower = {**PRESETS["internvit-300m"], "image_size": 224}
    small = {"hidden_size": 256, "num_attention_heads": 4, "num_hidden_layers": 1, "intermediate_size": 512}
    whole = PRESETS["internvl-14b"]
    PRESETS["embed"] = {**whole, "vision_config": tower, "qllama_config": {**whole["qllama_config"], **small}}
    write_checkpoint(folder / "checkpoint", "embed", layers, dtype="float32")
    options = ExportOptions(
        checkpoint=str(folder / "checkpoint"), output=folder / "bundle", dtype="fp32", graphs=("vision",)
    )
    export_bundle(options)
    return folder / "bundle"


def _photographs(source: Path, folder: Path, count: int) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index, picture in enumerate(find_pictures([source])[:count]):
        with Image.open(picture.content()) as opened:
            values = np.asarray(opened.convert("RGB").resize((640, 480), Image.Resampling.BICUBIC), np.float32)
        noisy = (values + rng.normal(0, _NOISE, values.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{index:05d}.jpg", quality=90)
    return folder


if __name__ == "__main__":
    main()
