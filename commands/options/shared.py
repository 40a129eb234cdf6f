"""Arguments and options that several commands take: one object each, so that a name has one type and one text."""

from collections.abc import Callable
from typing import Any

import click

from internvl_edge.commands.options.numbers import LENGTH, PIXELS, SAMPLES, THREAD_COUNT, TILES
from internvl_edge.commands.options.value_types import GivenPath, Names
from internvl_edge.runtime.backends import BACKENDS
from internvl_edge.runtime.tasks.generation.config import MOST_BEAMS

Option = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Decorator that adds one option to a command."""


def _limit_pixels(ctx: click.Context, param: click.Parameter, value: int | None) -> None:
    """Set the limit of pixels for this process."""
    if value is not None:
        from internvl_edge.runtime.inputs.pictures.decode import limit_pixels

        limit_pixels(value or None)


def max_pixels(**settings: Any) -> Option:
    """Return --max-pixels; `settings` say what becomes of its value."""
    return click.option(
        "--max-pixels",
        type=click.IntRange(0, 2**40),
        show_default="89478485",
        help="Largest number of pixels that a picture may have; 0: any number.",
        **settings,
    )


def sample_count(
    default: int | None,
    *,
    source: str = "--data",
    chosen: str = "evenly spaced over it",
    most: click.IntRange = SAMPLES,
) -> Option:
    """Return --sample-count; without a default all pictures are taken.

    `chosen` says which pictures of `source` are taken.
    """
    return click.option(
        "--sample-count",
        type=most,
        default=default,
        show_default="all" if default is None else True,
        help=f"Number of pictures to take from {source}, {chosen}.",
    )


def threads(default: str = "one for a small graph, else all cores") -> Option:
    """Return --threads, with its default in words."""
    return click.option(
        "--threads", type=THREAD_COUNT, show_default=default, help="Number of threads of a CPU backend."
    )


def backend(default: str = "auto") -> Option:
    """Return --backend."""
    return click.option(
        "--backend",
        default=default,
        show_default=True,
        help=f"Library that runs the graphs: {', '.join(BACKENDS)}.",
    )


def target(purpose: str, default: str | bool = False) -> Option:
    """Return --target, with what the device is named for, and its default in words if it has one."""
    return click.option(
        "--target",
        show_default=default,
        help=f"{purpose}: a name as rtx-4090 or agx-orin-64gb, or sm_89; `internvl-edge targets` lists them.",
    )


def clip_method(default: str | None) -> Option:
    """Return --method; without a default the method that is stored with the ranges is taken."""
    return click.option(
        "--method",
        "--calibration_method",
        "method",
        default=default,
        show_default="the method of the ranges" if default is None else True,
        help="Method that chooses clipping thresholds: auto, max, percentile, entropy or mse.",
    )


def tasks(*names: str) -> Option:
    """Return --tasks for a command that knows the tasks `names`."""
    return click.option(
        "--tasks", type=Names(), show_default="all", help=f"Tasks to measure, comma-separated: {', '.join(names)}."
    )


def max_new_tokens(default: int) -> Option:
    """Return --max-new-tokens."""
    return click.option(
        "--max-new-tokens",
        type=LENGTH,
        default=default,
        show_default=True,
        help="Largest number of tokens in a caption or an answer.",
    )


def max_tiles(name: str = "max_tiles") -> Option:
    """Return --max-tiles, which reaches the command as the argument `name`."""
    return click.option(
        "--max-tiles",
        name,
        type=TILES,
        show_default="the checkpoint's, or 12",
        help="Largest number of tiles that a picture is cut into.",
    )


BUNDLE = click.argument("bundle", type=GivenPath())
IMAGES = click.argument("images", nargs=-1, required=True, type=GivenPath())
MAX_PIXELS = max_pixels(callback=_limit_pixels, expose_value=False)
"""--max-pixels of commands that set the limit for their process and pass it to nothing else."""
GRAPHS = click.option(
    "--graphs", type=Names(), show_default="all", help="Graphs to take, comma-separated, as vision,text."
)
BACKEND = backend()
NUM_BEAMS = click.option(
    "--num-beams",
    type=click.IntRange(1, MOST_BEAMS),
    default=1,
    show_default=True,
    help="Number of beams of the search; 1: greedy search.",
)
FRAMES = click.option(
    "--frames",
    type=click.IntRange(1, 65536),
    default=8,
    show_default=True,
    help="Number of frames to take from each video.",
)
BF16 = click.option(
    "--bf16", is_flag=True, help="Compute in bf16 on a CPU that has instructions for it: faster, and less exact."
)
IMAGE_SIZE = click.option(
    "--image-size",
    type=PIXELS,
    show_default="the checkpoint's",
    help="Side of the model's input in pixels; the table of position embeddings is interpolated to it.",
)
REVISION = click.option("--revision", help="Branch, tag or commit of a checkpoint that is named by its Hub id.")
ACCEPT_CONFIG = click.option(
    "--accept-config",
    multiple=True,
    metavar="FIELD",
    help="Unknown field of the checkpoint's config files to accept as having no effect; repeat for each field.",
)
STATE_DICT = click.option(
    "--state-dict",
    metavar="NAME",
    help="Set of weights to take where the checkpoint holds several, as model_ema.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
