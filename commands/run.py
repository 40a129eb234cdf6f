"""The commands that run a task on a bundle: classify, retrieve, caption, embed, video and connect."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from internvl_edge.commands.numbers import BATCH, LENGTH, PROCESSES, SHARE
from internvl_edge.commands.parameters import BUNDLE, IMAGES, JSON, Given, GivenPath
from internvl_edge.commands.printing import show, show_json
from internvl_edge.commands.request import Request, request_options, shown_work
from internvl_edge.runtime.generation import MOST_BEAMS
from internvl_edge.runtime.tiling import MOST_TILES

if TYPE_CHECKING:
    import numpy as np

    from internvl_edge.runtime.model import InternVL
    from internvl_edge.runtime.modes import Mode
    from internvl_edge.runtime.ray.engine import RayEngine

_TILES = click.IntRange(1, MOST_TILES)
_MODE = click.option(
    "--mode",
    type=click.Choice(["c", "g"]),
    help="InternVL-C or InternVL-G picture features.  [default: g where BUNDLE has the query graph, otherwise c]",
)


@click.group()
def run() -> None:
    """Run a task on a bundle: classify, retrieve, caption, embed, video or connect."""


@run.command()
@BUNDLE
@IMAGES
@click.option("-l", "--label", "labels", multiple=True, required=True, help="A class name; repeat for each class.")
@click.option("--template", "templates", multiple=True, help="Text around a class name, as 'a photo of {}'.")
@request_options
@JSON
def classify(
    bundle: Path,
    images: tuple[Path, ...],
    labels: tuple[str, ...],
    templates: tuple[str, ...],
    request: Request,
    as_json: bool,
) -> None:
    """Classify IMAGES among the labels, without training."""
    from internvl_edge.runtime.inputs.read import find_pictures
    from internvl_edge.runtime.tables import require_unlike

    require_unlike("--label", labels)
    pictures = find_pictures(images)
    with request.open(bundle) as model:
        with shown_work(model, "Classifying", len(pictures)):
            scores = model.classify(pictures, labels, templates=templates or None)
        _show_ranking(pictures, labels, scores, as_json)


@run.command()
@BUNDLE
@IMAGES
@click.option("-t", "--text", "texts", multiple=True, required=True, help="A text; repeat for each text.")
@_MODE
@request_options
@JSON
def retrieve(
    bundle: Path, images: tuple[Path, ...], texts: tuple[str, ...], mode: "Mode | None", request: Request, as_json: bool
) -> None:
    """Rank the texts for each of IMAGES by similarity."""
    from internvl_edge.runtime.inputs.read import find_pictures
    from internvl_edge.runtime.tables import require_unlike

    require_unlike("--text", texts)
    pictures = find_pictures(images)
    with request.open(bundle) as model:
        with shown_work(model, "Ranking", len(pictures)):
            scores = model.similarity(pictures, texts, mode=mode)
        _show_ranking(pictures, texts, scores, as_json)


@run.command()
@BUNDLE
@IMAGES
@click.option("--prompt", default="English caption:", show_default=True, help="What the caption follows.")
@click.option("--num-beams", type=click.IntRange(1, MOST_BEAMS), default=1, show_default=True, help="Beams; 1: greedy.")
@click.option("--min-new-tokens", type=click.IntRange(0, 65536), default=0, show_default=True, help="Tokens at least.")
@click.option("--max-new-tokens", type=LENGTH, default=30, show_default=True, help="Tokens at most.")
@click.option("--stream", is_flag=True, help="Print a caption while it is written, one picture after the other.")
@request_options
@JSON
def caption(
    bundle: Path, images: tuple[Path, ...], request: Request, as_json: bool, stream: bool, **settings: Any
) -> None:
    """Write a caption for each of IMAGES."""
    from internvl_edge.runtime.inputs.read import find_pictures
    from internvl_edge.runtime.tables import caption_rows, lines_text, streamed_lines

    if stream and (as_json or settings.pop("num_beams") > 1):
        raise click.UsageError("--stream prints greedy captions as text: leave --json and --num-beams out")
    pictures = find_pictures(images)
    with request.open(bundle) as model:
        if stream:
            for piece in streamed_lines(model, pictures, **settings):
                show(piece, newline=False)
            return
        with shown_work(model, "Captioning", len(pictures)):
            captions = model.caption(pictures, **settings)
    show_json(caption_rows(pictures, captions)) if as_json else show(lines_text(pictures, captions))


@run.command()
@BUNDLE
@click.argument("inputs", nargs=-1, type=GivenPath())
@click.option("-t", "--text", "texts", multiple=True, help="A text to embed, into an .npz; repeat for each text.")
@click.option(
    "--text-column",
    type=Given(),
    metavar="NAME",
    help="Embed the texts of this field of INPUTS, which are tables; no pictures.",
)
@click.option("-o", "--output", type=GivenPath(), required=True, help="File to write: .npz, .npy or .parquet.")
@_MODE
@click.option(
    "--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True, help="Of the features."
)
@click.option("--batch-size", type=BATCH, default=32, show_default=True, help="Pictures or texts a call.")
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="This process, or the Ray cluster of RAY_ADDRESS (a local one where it is not set).",
)
@click.option(
    "--workers",
    type=PROCESSES,
    help="local: threads that read pictures; ray: sessions, of --threads CPUs each.  [default: as many as fit]",
)
@click.option("--gpus", type=SHARE, default=0, show_default=True, help="ray: GPUs of a session.")
@click.option(
    "--on-error",
    type=click.Choice(["fail", "skip"]),
    default="fail",
    show_default=True,
    help="Whether unreadable pictures, texts and rows end the run, or are left out and listed in a .bad.jsonl.",
)
@request_options
def embed(
    bundle: Path,
    inputs: tuple[Path, ...],
    texts: tuple[str, ...],
    text_column: str | None,
    engine: str,
    workers: int | None,
    gpus: float,
    request: Request,
    **settings: Any,
) -> None:
    """Write the raw features of the pictures in INPUTS: files, folders, tables and archives.

    An .npz holds `images`, `image_embeds`, `texts`, `text_embeds`; an .npy has its names in a .names.jsonl beside it.
    Rows are in the order of INPUTS. A run that was killed is taken up by the same command.
    """
    from internvl_edge.progress import shown_progress
    from internvl_edge.runtime.inputs.read import find_pictures, find_texts
    from internvl_edge.runtime.outputs.files import require_apart
    from internvl_edge.runtime.pipeline.embedding import EmbedReport, embed_texts, kept_line, written_files
    from internvl_edge.runtime.pipeline.embedding import embed as embed_pictures
    from internvl_edge.runtime.pipeline.options import EmbedOptions
    from internvl_edge.runtime.profile.interrupt import STOPPED

    if text_column and texts:
        raise click.UsageError("--text-column embeds a table alone: leave -t out")
    options = EmbedOptions(**settings, workers=workers if engine == "local" else None)
    require_apart(written_files(options.output), inputs)
    write: Callable[..., EmbedReport]
    if text_column:
        lines = find_texts(inputs, text_column, options.on_error)
        count, write = len(lines), partial(embed_texts, texts=lines, options=options)
    else:
        pictures = find_pictures(inputs, options.on_error)
        count, write = len(pictures), partial(embed_pictures, pictures=pictures, options=options, texts=texts)
    try:
        with request.open(bundle, min(options.batch_size, max(count, 1))) as model:
            cluster = _cluster(model, request, workers, gpus) if engine == "ray" else None
            with (
                shown_progress() as progress,
                progress.task("Embedding", count, "texts" if text_column else "pictures") as advance,
            ):
                report = write(model, advance=advance, engine=cluster)
            show(report.summary())
    except KeyboardInterrupt:
        click.echo(kept_line(options.output), err=True)
        click.get_current_context().exit(STOPPED)


def _cluster(model: "InternVL", request: Request, workers: int | None, gpus: float) -> "RayEngine":
    from internvl_edge.runtime.ray.engine import RayEngine, RayOptions

    options = RayOptions(
        workers=workers,
        backend=request.backend,
        threads=request.threads or 1,
        bf16=request.bf16,
        gpus=gpus,
        max_pixels=request.max_pixels,
    )
    return RayEngine(model.bundle, options)


@run.command()
@BUNDLE
@click.argument("videos", nargs=-1, required=True, type=GivenPath())
@click.option("-t", "--text", "texts", multiple=True, required=True, help="A text; repeat for each text.")
@click.option(
    "--frames",
    type=click.IntRange(1, 65536),
    default=8,
    show_default=True,
    help="Frames taken of each video.",
)
@_MODE
@request_options
@JSON
def video(
    bundle: Path,
    videos: tuple[Path, ...],
    texts: tuple[str, ...],
    frames: int,
    mode: "Mode | None",
    request: Request,
    as_json: bool,
) -> None:
    """Rank the texts for each of VIDEOS: a folder of frames, an animation, or a video file where PyAV is installed."""
    from internvl_edge.runtime.tables import require_unlike
    from internvl_edge.runtime.video import rank_texts

    require_unlike("--text", texts)
    with request.open(bundle) as model:
        with shown_work(model, "Ranking", len(videos) * frames, "frames"):
            scores = rank_texts(model, videos, texts, frames, mode)
        _show_ranking(videos, texts, scores, as_json)


@run.command()
@BUNDLE
@IMAGES
@click.option("-o", "--output", type=GivenPath(), required=True, help="NumPy .npz to write.")
@click.option("--min-tiles", "smallest", type=_TILES, help="Tiles at least. Default: the checkpoint's.")
@click.option("--max-tiles", "largest", type=_TILES, help="Tiles at most. Default: the checkpoint's, or 12.")
@click.option(
    "--thumbnail/--no-thumbnail",
    default=None,
    help="Whether the whole picture is a last tile. Default: the checkpoint's.",
)
@request_options
def connect(bundle: Path, images: tuple[Path, ...], output: Path, request: Request, **tiling: Any) -> None:
    """Write what a chat checkpoint's language model takes of IMAGES: `images`, `tiles`, `vit_embeds`."""
    from internvl_edge.runtime.connect import TilingOptions, save_vit_embeds
    from internvl_edge.runtime.inputs.read import find_pictures
    from internvl_edge.runtime.outputs.files import require_apart, takes_stdout

    require_apart([output], images)
    pictures = find_pictures(images)
    with request.open(bundle) as model:
        with shown_work(model, "Connecting", len(pictures)):
            written = save_vit_embeds(model, pictures, TilingOptions(**tiling), output)
        show(written, to_stderr=takes_stdout([output]))


def _show_ranking(images: Sequence[object], names: Sequence[str], scores: "np.ndarray", as_json: bool) -> None:
    from internvl_edge.runtime.tables import ranking_rows, ranking_text

    if as_json:
        show_json(ranking_rows(images, names, scores))
    else:
        show(ranking_text(images, names, scores))
