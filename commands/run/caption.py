"""`run caption`: write a caption for each picture."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from internvl_edge.commands.options.request import Request, request_options, work_progress
from internvl_edge.commands.options.shared import BUNDLE, IMAGES, JSON, NUM_BEAMS, max_new_tokens
from internvl_edge.commands.output.printing import show, show_json
from internvl_edge.runtime.monitor import Monitor


@click.command()
@BUNDLE
@IMAGES
@click.option("--prompt", default="English caption:", show_default=True, help="Text that the caption continues.")
@NUM_BEAMS
@click.option(
    "--min-new-tokens",
    type=click.IntRange(0, 65536),
    default=0,
    show_default=True,
    help="Smallest number of tokens in a caption.",
)
@max_new_tokens(30)
@click.option("--stream", is_flag=True, help="Print each caption token by token while it is written.")
@request_options
@JSON
def caption(
    bundle: Path, images: tuple[Path, ...], request: Request, as_json: bool, stream: bool, **settings: Any
) -> None:
    """Write a caption for each of IMAGES."""
    from internvl_edge.runtime.inputs.read import find_pictures
    from internvl_edge.runtime.outputs.results import caption_rows, lines_text, streamed_lines

    if stream and (as_json or settings.pop("num_beams") > 1):
        raise click.UsageError("--stream prints greedy captions as text: leave --json and --num-beams out")
    pictures = find_pictures(images)
    with request.open(bundle) as (model, stages):
        if stream:

            def pieces(image: object) -> Iterator[str]:
                return (piece.text for piece in model.stream([image], **settings, monitor=Monitor(stages=stages)))

            for piece in streamed_lines(pictures, pieces):
                show(piece, newline=False)
            return
        with work_progress(stages, "Captioning", len(pictures)) as monitor:
            captions = model.caption(pictures, **settings, monitor=monitor)
    show_json(caption_rows(pictures, captions)) if as_json else show(lines_text(pictures, captions))
