"""`run retrieve`: rank texts for each picture."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from internvl_edge.commands.options.request import Request, request_options, work_progress
from internvl_edge.commands.options.shared import BUNDLE, IMAGES, JSON
from internvl_edge.commands.run.ranking import MODE, TEXTS, show_ranking

if TYPE_CHECKING:
    from internvl_edge.runtime.bundle.modes import Mode


@click.command()
@BUNDLE
@IMAGES
@TEXTS
@MODE
@request_options
@JSON
def retrieve(
    bundle: Path, images: tuple[Path, ...], texts: tuple[str, ...], mode: "Mode | None", request: Request, as_json: bool
) -> None:
    """Rank the texts for each of IMAGES by similarity."""
    from internvl_edge.runtime.inputs.read import find_pictures
    from internvl_edge.runtime.outputs.results import require_unlike

    require_unlike("--text", texts)
    pictures = find_pictures(images)
    with request.open(bundle) as (model, stages):
        with work_progress(stages, "Ranking", len(pictures)) as monitor:
            scores = model.similarity(pictures, texts, mode=mode, monitor=monitor)
        show_ranking(pictures, texts, scores, as_json)
