"""Options of the commands that join requests into batches: `serve`, `package ray` and `package triton`."""

import click

from internvl_edge.commands.options.numbers import BATCH, DEADLINE_MS, MILLISECONDS, QUEUE_LENGTH

MAX_BATCH = click.option(
    "--max-batch", type=BATCH, default=16, show_default=True, help="Largest number of rows in a batch of requests."
)
MAX_DELAY_MS = click.option(
    "--max-delay-ms",
    type=MILLISECONDS,
    default=2.0,
    show_default=True,
    help="Longest time in ms that a request waits for others to join its batch.",
)
QUEUE = click.option(
    "--queue",
    type=QUEUE_LENGTH,
    default=256,
    show_default=True,
    help="Largest number of requests that wait; further ones are refused with status 429.",
)
DEADLINE = click.option(
    "--deadline-ms",
    type=DEADLINE_MS,
    default=500.0,
    show_default=True,
    help="Time limit in ms of a request that sets none of its own.",
)
