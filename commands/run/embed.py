"""`run embed`: write the features of pictures or texts to a file."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from internvl_edge.commands.options.numbers import BATCH, PROCESS_COUNT, SHARE
from internvl_edge.commands.options.request import Request, request_options
from internvl_edge.commands.options.shared import BUNDLE
from internvl_edge.commands.options.value_types import Given, GivenPath
from internvl_edge.commands.output.printing import show
from internvl_edge.commands.run.ranking import MODE
from internvl_edge.runtime.monitor import Monitor

if TYPE_CHECKING:
    from internvl_edge.runtime.model import InternVL
    from internvl_edge.runtime.ray.engine import RayEngine


@click.command()
@BUNDLE
@click.argument("inputs", nargs=-1, type=GivenPath())
@click.option("-t", "--text", "texts", multiple=True, help="Text to embed into an .npz; repeat for each text.")
@click.option(
    "--text-column",
    type=Given(),
    metavar="NAME",
    help="Field of INPUTS, which are tables, whose texts are embedded instead of pictures.",
)
@click.option("-o", "--output", type=GivenPath(), required=True, help="File to write: .npz, .npy or .parquet.")
@MODE
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Type of the features in the file.",
)
@click.option(
    "--batch-size", type=BATCH, default=32, show_default=True, help="Number of pictures or texts in one call."
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="What runs the graphs. local: this process; ray: the cluster at RAY_ADDRESS, or a local one without it.",
)
@click.option(
    "--workers",
    type=PROCESS_COUNT,
    show_default="as many as fit",
    help="Number of threads that read pictures (local), or of sessions with --threads CPUs each (ray).",
)
@click.option("--gpus", type=SHARE, default=0, show_default=True, help="Number of GPUs of a session (ray).")
@click.option(
    "--on-error",
    type=click.Choice(["fail", "skip"]),
    default="fail",
    show_default=True,
    help="What to do with pictures, texts and rows that cannot be read. fail: end the run; skip: leave them out and"
    " list them in a .bad.jsonl.",
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
    Rows are in the order of INPUTS. A run that was killed continues when the same command is given again.
    """
    from internvl_edge.commands.output.progress import shown_progress
    from internvl_edge.runtime.embed.embedding import EmbedReport, embed_texts, kept_line, written_files
    from internvl_edge.runtime.embed.embedding import embed as embed_pictures
    from internvl_edge.runtime.embed.options import EmbedOptions
    from internvl_edge.runtime.inputs.read import find_pictures, find_texts
    from internvl_edge.runtime.latency.interrupt import STOPPED
    from internvl_edge.runtime.outputs.files import require_apart

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
        with request.open(bundle, min(options.batch_size, max(count, 1))) as (model, stages):
            cluster = _cluster(model, request, workers, gpus) if engine == "ray" else None
            with (
                shown_progress() as progress,
                progress.task("Embedding", count, "texts" if text_column else "pictures") as advance,
            ):
                report = write(model, monitor=Monitor(stages=stages, advance=advance), engine=cluster)
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
