"""`run connect`: write the picture features that the language model of a chat checkpoint takes."""

from pathlib import Path
from typing import Any

import click

from internvl_edge.commands.options.numbers import TILES
from internvl_edge.commands.options.request import Request, request_options, work_progress
from internvl_edge.commands.options.shared import BUNDLE, IMAGES, max_tiles
from internvl_edge.commands.options.value_types import GivenPath
from internvl_edge.commands.output.printing import show


@click.command()
@BUNDLE
@IMAGES
@click.option("-o", "--output", type=GivenPath(), required=True, help="File to write, a NumPy .npz.")
@click.option(
    "--min-tiles",
    "smallest",
    type=TILES,
    show_default="the checkpoint's",
    help="Smallest number of tiles that a picture is cut into.",
)
@max_tiles("largest")
@click.option(
    "--thumbnail/--no-thumbnail",
    default=None,
    show_default="the checkpoint's",
    help="Add the whole picture as the last tile.",
)
@request_options
def connect(bundle: Path, images: tuple[Path, ...], output: Path, request: Request, **tiling: Any) -> None:
    """Write the features of IMAGES that a chat checkpoint's language model takes: `images`, `tiles`, `vit_embeds`."""
    from internvl_edge.runtime.inputs.read import find_pictures
    from internvl_edge.runtime.outputs.files import require_apart, takes_stdout
    from internvl_edge.runtime.tasks.connect import TilingOptions, save_vit_embeds

    require_apart([output], images)
    pictures = find_pictures(images)
    with request.open(bundle) as (model, stages):
        with work_progress(stages, "Connecting", len(pictures)) as monitor:
            written = save_vit_embeds(model, pictures, TilingOptions(**tiling), output, monitor)
        show(written, to_stderr=takes_stdout([output]))
