"""`run chat`: answer questions about pictures, once or as a conversation in the terminal."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from internvl_edge.commands.options.numbers import Number
from internvl_edge.commands.options.request import Request, request_options
from internvl_edge.commands.options.shared import BUNDLE, FRAMES, JSON, NUM_BEAMS, max_new_tokens, max_tiles
from internvl_edge.commands.options.value_types import Given, GivenPath

_DRAWING = ("temperature", "top_k", "top_p", "min_p", "seed")


@click.command()
@BUNDLE
@click.argument("images", nargs=-1, type=GivenPath())
@click.option(
    "-q",
    "--question",
    "questions",
    multiple=True,
    type=Given(),
    help="Question to answer, `<image>` in it where a picture stands; repeat for questions that follow. Without it they"
    " are read from the terminal, or line by line from a pipe.",
)
@click.option("--video", type=GivenPath(), help="Video, animation or folder of frames to ask about.")
@FRAMES
@max_tiles()
@click.option("--system", type=Given(), show_default="the checkpoint's", help="System text of the conversation.")
@max_new_tokens(256)
@NUM_BEAMS
@click.option(
    "--temperature",
    type=Number(0, 100),
    help="Draw tokens at random: above 1 more freely, below 1 less; 0: do not draw.",
)
@click.option("--top-k", type=click.IntRange(0, 2**31), help="Draw from this many of the most likely tokens; 0: all.")
@click.option("--top-p", type=Number(0, 1), help="Draw from the most likely tokens of this probability together.")
@click.option("--min-p", type=Number(0, 1), help="Draw from tokens at least this probable, relative to the first.")
@click.option(
    "--repetition-penalty",
    type=Number(0, 100, min_open=True),
    default=1.0,
    show_default=True,
    help="Factor by which tokens that have come get less likely.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), help="Seed of drawn tokens, which makes an answer repeatable."
)
@click.option("--stop", multiple=True, help="Text before which an answer ends; repeat for several.")
@request_options
@JSON
def chat(
    bundle: Path,
    images: tuple[Path, ...],
    questions: tuple[str, ...],
    video: Path | None,
    frames: int,
    request: Request,
    as_json: bool,
    **settings: Any,
) -> None:
    """Answer questions about IMAGES, which may be none.

    \b
    internvl-edge run chat bundle lamp.jpg -q "What is left of the lamp?"
    internvl-edge run chat bundle a.jpg b.jpg -q "What differs?" --json
    internvl-edge run chat bundle --video clip.mp4 -q "What happens?"
    internvl-edge run chat bundle lamp.jpg        a conversation: /help lists its commands
    """
    from internvl_edge.commands.run.conversation import Frame, Talk, ask_all, questions_of_stdin, talk_in_terminal
    from internvl_edge.runtime.inputs.pictures.decode import check_pictures
    from internvl_edge.runtime.inputs.read import find_pictures
    from internvl_edge.runtime.tasks.video import sample_video, segment_indices

    in_terminal = not questions and sys.stdin.isatty()
    if in_terminal and as_json:
        raise click.UsageError("--json prints answers to -q, or to the lines of a pipe: give one of them")
    pictures = find_pictures(images)
    check_pictures(pictures)
    sampled = sample_video(video, frames, segment_indices) if video is not None else []
    shown = [Frame(f"{video}, frame {number}", frame) for number, frame in enumerate(sampled, 1)]
    with request.open(bundle) as (model, stages):
        talk = Talk(model, pictures, shown, _with_drawing(settings), stages)
        if in_terminal:
            talk_in_terminal(talk)
        else:
            ask_all(talk, questions or questions_of_stdin(talk), as_json)


def _with_drawing(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of `InternVL.chat`: tokens are drawn if an option of drawing is given, but not at 0."""
    drawing = {name: settings[name] for name in _DRAWING if settings[name] is not None}
    others = {name: value for name, value in settings.items() if name not in _DRAWING}
    if not drawing or drawing.get("temperature") == 0:
        return others
    return others | drawing | {"do_sample": True}
