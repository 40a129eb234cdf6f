"""`run`: the group of the commands that run a task on a bundle; each command has a file of its own."""

import click

from internvl_edge.commands.run.caption import caption
from internvl_edge.commands.run.chat import chat
from internvl_edge.commands.run.classify import classify
from internvl_edge.commands.run.connect import connect
from internvl_edge.commands.run.embed import embed
from internvl_edge.commands.run.retrieve import retrieve
from internvl_edge.commands.run.video import video


@click.group()
def run() -> None:
    """Run a task on a bundle: chat, classify, retrieve, caption, embed, video or connect."""


for _command in (chat, classify, retrieve, caption, embed, video, connect):
    run.add_command(_command)
