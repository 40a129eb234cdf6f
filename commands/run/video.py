"""`run video`: rank texts for each video."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from internvl_edge.commands.options.request import Request, request_options, work_progress
from internvl_edge.commands.options.shared import BUNDLE, FRAMES, JSON
from internvl_edge.commands.options.value_types import GivenPath
from internvl_edge.commands.run.ranking import MODE, TEXTS, show_ranking

if TYPE_CHECKING:
    from internvl_edge.runtime.bundle.modes import Mode


@click.command()
@BUNDLE
@click.argument("videos", nargs=-1, required=True, type=GivenPath())
@TEXTS
@FRAMES
@MODE
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
    from internvl_edge.runtime.outputs.results import require_unlike
    from internvl_edge.runtime.tasks.video import rank_texts

    require_unlike("--text", texts)
    with request.open(bundle) as (model, stages):
        with work_progress(stages, "Ranking", len(videos) * frames, "frames") as monitor:
            scores = rank_texts(model, videos, texts, frames, mode, monitor)
        show_ranking(videos, texts, scores, as_json)
