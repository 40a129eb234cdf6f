"""The commands that run a task on a bundle: classify, retrieve, caption and embed."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from internvl_edge.commands.parameters import BACKEND, BUNDLE, IMAGES, JSON

if TYPE_CHECKING:
    from internvl_edge.runtime.model import Mode


@click.group()
def run() -> None:
    """Run a task on a bundle: classify, retrieve, caption or embed."""


@run.command()
@BUNDLE
@IMAGES
@click.option("-l", "--label", "labels", multiple=True, required=True, help="A class name; repeat for each class.")
@click.option("--template", "templates", multiple=True, help="Text around a class name, as 'a photo of {}'.")
@BACKEND
@JSON
def classify(
    bundle: Path,
    images: tuple[Path, ...],
    labels: tuple[str, ...],
    templates: tuple[str, ...],
    backend: str,
    as_json: bool,
) -> None:
    """Classify IMAGES among the labels, without training."""
    from internvl_edge.runtime import InternVL
    from internvl_edge.runtime.tables import ranking_text

    probabilities = InternVL.open(bundle, backend=backend).classify(images, labels, templates=templates or None)
    click.echo(ranking_text(images, labels, probabilities, as_json=as_json))


@run.command()
@BUNDLE
@IMAGES
@click.option("-t", "--text", "texts", multiple=True, required=True, help="A text; repeat for each text.")
@click.option(
    "--mode",
    type=click.Choice(["c", "g"]),
    default="g",
    show_default=True,
    help="InternVL-C or InternVL-G picture features.",
)
@BACKEND
@JSON
def retrieve(
    bundle: Path, images: tuple[Path, ...], texts: tuple[str, ...], mode: "Mode", backend: str, as_json: bool
) -> None:
    """Rank the texts for each of IMAGES by similarity."""
    from internvl_edge.runtime import InternVL
    from internvl_edge.runtime.tables import ranking_text

    logits = InternVL.open(bundle, backend=backend).similarity(images, texts, mode=mode)
    click.echo(ranking_text(images, texts, logits, as_json=as_json))


@run.command()
@BUNDLE
@IMAGES
@click.option("--prompt", default="English caption:", show_default=True)
@click.option("--num-beams", type=click.IntRange(1), default=1, show_default=True)
@click.option("--min-new-tokens", type=click.IntRange(0), default=0, show_default=True)
@click.option("--max-new-tokens", type=click.IntRange(1), default=30, show_default=True)
@BACKEND
@JSON
def caption(bundle: Path, images: tuple[Path, ...], backend: str, as_json: bool, **settings: Any) -> None:
    """Write a caption for each of IMAGES."""
    from internvl_edge.runtime import InternVL
    from internvl_edge.runtime.tables import lines_text

    captions = InternVL.open(bundle, backend=backend).caption(images, **settings)
    click.echo(lines_text(images, captions, as_json=as_json))


@run.command()
@BUNDLE
@click.argument("images", nargs=-1, type=click.Path(path_type=Path))
@click.option("-t", "--text", "texts", multiple=True, help="A text to embed; repeat for each text.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="NumPy .npz to write.")
@click.option(
    "--mode",
    type=click.Choice(["c", "g"]),
    default="g",
    show_default=True,
    help="InternVL-C or InternVL-G picture features.",
)
@BACKEND
def embed(
    bundle: Path, images: tuple[Path, ...], texts: tuple[str, ...], output: Path, mode: "Mode", backend: str
) -> None:
    """Write the raw features of IMAGES and texts to an .npz with `images`, `image_embeds`, `texts`, `text_embeds`."""
    from internvl_edge.runtime import InternVL
    from internvl_edge.runtime.tables import save_embeddings

    saved = save_embeddings(InternVL.open(bundle, backend=backend), images, texts, mode, output)
    click.echo(saved)
