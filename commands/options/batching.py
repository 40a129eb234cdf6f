"""Options of the commands that join requests into batches: `serve`, and `package ray`, whose replicas do the same."""

import click

from internvl_edge.commands.options.numbers import BATCH, DEADLINE_MS, MILLISECONDS

MAX_BATCH = click.option("--max-batch", type=BATCH, default=16, show_default=True, help="Rows that are joined at most.")
MAX_DELAY_MS = click.option(
    "--max-delay-ms",
    type=MILLISECONDS,
    default=2.0,
    show_default=True,
    help="How long a request waits for others.",
)
DEADLINE = click.option(
    "--deadline-ms",
    type=DEADLINE_MS,
    default=500.0,
    show_default=True,
    help="Of a request that sets none.",
)
