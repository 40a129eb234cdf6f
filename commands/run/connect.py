"""`run connect`: what a chat checkpoint's language model takes of pictures."""

from pathlib import Path
from typing import Any

import click

from internvl_edge.commands.options.parameters import BUNDLE, IMAGES, GivenPath
from internvl_edge.commands.options.request import Request, request_options, work_progress
from internvl_edge.commands.output.printing import show
from internvl_edge.runtime.inputs.pictures.tiling import MOST_TILES

TILES = click.IntRange(1, MOST_TILES)


@click.command()
@BUNDLE
@IMAGES
@click.option("-o", "--output", type=GivenPath(), required=True, help="NumPy .npz to write.")
@click.option("--min-tiles", "smallest", type=TILES, help="Tiles at least. Default: the checkpoint's.")
@click.option("--max-tiles", "largest", type=TILES, help="Tiles at most. Default: the checkpoint's, or 12.")
@click.option(
    "--thumbnail/--no-thumbnail",
    default=None,
    help="Whether the whole picture is a last tile. Default: the checkpoint's.",
)
@request_options
def connect(bundle: Path, images: tuple[Path, ...], output: Path, request: Request, **tiling: Any) -> None:
    """Write what a chat checkpoint's language model takes of IMAGES: `images`, `tiles`, `vit_embeds`."""
    from internvl_edge.runtime.inputs.read import find_pictures
    from internvl_edge.runtime.outputs.files import require_apart, takes_stdout
    from internvl_edge.runtime.tasks.connect import TilingOptions, save_vit_embeds

    require_apart([output], images)
    pictures = find_pictures(images)
    with request.open(bundle) as (model, stages):
        with work_progress(stages, "Connecting", len(pictures)) as monitor:
            written = save_vit_embeds(model, pictures, TilingOptions(**tiling), output, monitor)
        show(written, to_stderr=takes_stdout([output]))
