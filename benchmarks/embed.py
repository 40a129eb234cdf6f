"""Pictures per second of `run embed` and of the graphs alone, interleaved in one run: `embed.py BUNDLE PICTURES`.

The bare rate is that of the graphs alone, on as many threads, on batches of pixel values that lie in memory. Rates are
medians over the rounds, the ratio is the median of the rounds' ratios. Where the graphs fill the cores of a CPU, what
reads pictures takes time from them: processor times are printed beside the rates, and the ratio that they leave at most
(threads that spin count as work: `--threads 1` gives the graph's own). `random:4` as BUNDLE is a tower
of 4 random blocks of InternViT-300M's size at 224 px, under InternVL-C's head.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click
import numpy as np
from PIL import Image
from random_checkpoint import PRESETS, write_checkpoint

from internvl_edge.runtime import InternVL
from internvl_edge.runtime.backends import SessionOptions
from internvl_edge.runtime.embed.embedding import embed
from internvl_edge.runtime.embed.options import EmbedOptions
from internvl_edge.runtime.inputs.pictures.decode import decode
from internvl_edge.runtime.inputs.pictures.source import SourcePicture
from internvl_edge.runtime.inputs.read import find_pictures

if TYPE_CHECKING:
    from internvl_edge.runtime.bundle.modes import Mode

_NOISE = 12
"""Standard deviation of the noise on generated photographs, with which a JPEG of 640 x 480 has 120 KB as usual."""


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
        options = SessionOptions(threads=threads, rows=batch_size)
        with InternVL.open(opened, backend, batch_size=batch_size, options=options) as model:
            pixels = model.preprocess([picture.content() for picture in chosen[:batch_size]])
            model.encode_image(pixels, mode)
            rounds_of = [
                (
                    _measured(count, partial(_run_graph, model, pixels, count, mode)),
                    _measured(count, partial(_run_embed, model, chosen, mode, batch_size, workers)),
                    _measured(count, partial(_read, model, chosen)),
                )
                for _ in range(rounds)
            ]
            settings = ", ".join(f"{key} {value}" for key, value in model.session("vision").settings.items())
    ratios = [embedded.rate / bare.rate for bare, embedded, _ in rounds_of]
    bare, embedded, reading = (_median(column) for column in zip(*rounds_of, strict=True))
    source = "photographs of 640 x 480" if photographs else pictures.name
    print(f"{bundle}, mode {mode}, {count} pictures of {source}, batches of {batch_size}, {os.cpu_count()} cores")
    print(settings)
    print(
        f"graph alone {bare.rate:.1f} pictures/s, run embed {embedded.rate:.1f}, ratio {statistics.median(ratios):.1%}"
    )
    print("rounds: " + ", ".join(f"{ratio:.1%}" for ratio in ratios))
    times = f"graph {bare.core_ms:.2f} ms, run embed {embedded.core_ms:.2f} ms, reading alone {reading.core_ms:.2f} ms"
    most = bare.core_ms / (bare.core_ms + reading.core_ms)
    print(f"processor time of a picture: {times}; ratio where the graph fills all cores: {most:.1%} at most")


class _Cost(NamedTuple):
    rate: float
    """Pictures per second."""
    core_ms: float
    """Processor time of one picture in seconds, over all threads."""


def _measured(count: int, work: Callable[[], None]) -> _Cost:
    start, start_cpu = time.perf_counter(), time.process_time()
    work()
    return _Cost(count / (time.perf_counter() - start), (time.process_time() - start_cpu) / count * 1e3)


def _median(costs: Sequence[_Cost]) -> _Cost:
    return _Cost(*(statistics.median(column) for column in zip(*costs, strict=True)))


def _run_graph(model: InternVL, pixels: np.ndarray, count: int, mode: "Mode") -> None:
    for done in range(0, count, len(pixels)):
        model.encode_image(pixels[: count - done], mode)


def _run_embed(
    model: InternVL, pictures: list[SourcePicture], mode: "Mode", batch_size: int, workers: int | None
) -> None:
    """Run the whole call, with shards and the file."""
    with tempfile.TemporaryDirectory() as folder:
        options = EmbedOptions(output=Path(folder) / "f.npy", mode=mode, batch_size=batch_size, workers=workers)
        embed(model, pictures, options)


def _read(model: InternVL, pictures: list[SourcePicture]) -> None:
    """Decode and scale the pictures in one thread."""
    for picture in pictures:
        model.preprocess([picture.content()])


def _random_bundle(folder: Path, layers: int) -> Path:
    from internvl_edge.export.compile import export_bundle
    from internvl_edge.export.run.options import ExportOptions

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
        large = decode(picture.content()).resize((640, 480), Image.Resampling.BICUBIC)
        values = np.asarray(large, np.float32)
        noisy = (values + rng.normal(0, _NOISE, values.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{index:05d}.jpg", quality=90)
    return folder


if __name__ == "__main__":
    main()
