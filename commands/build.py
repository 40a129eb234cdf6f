"""`build`: build the TensorRT plans of a bundle, or write a kit that the device builds from."""

from pathlib import Path
from typing import Any

import click

from internvl_edge.commands.options.shared import BUNDLE, GRAPHS, target
from internvl_edge.commands.options.value_types import ByteSize, GivenPath
from internvl_edge.commands.output.printing import show


@click.command("build")
@BUNDLE
@target("Device to build for, which a kit knows already")
@click.option(
    "-o", "--output", type=GivenPath(), show_default="BUNDLE-TARGET", help="Folder of the kit, where a kit is written."
)
@GRAPHS
@click.option(
    "--batch",
    default="1:1:8",
    show_default=True,
    help="Number of pictures or texts in one call, as min:opt:max of the optimization profile.",
)
@click.option(
    "--text-length",
    default="1:16:80",
    show_default=True,
    help="Number of tokens in a text, as min:opt:max of the optimization profile.",
)
@click.option(
    "--max-host-mem",
    type=ByteSize(),
    show_default="no limit",
    help="Host memory that a build may take, as 12GiB; graphs that need more are built in parts.",
)
@click.option(
    "--attention",
    default="auto",
    show_default=True,
    help="How attention is written in the graphs: auto, op, pattern or plugin.",
)
@click.option(
    "--search-forms",
    is_flag=True,
    help="Build a few blocks in every form that is known, and the graphs in the one with the least cost.",
)
@click.option("--trtexec", is_flag=True, help="Also print the trtexec commands of a kit.")
def build_command(bundle: Path, trtexec: bool, **settings: Any) -> None:
    """Build the TensorRT plans of BUNDLE for a device, or write a kit that the device builds from.

    TensorRT-RTX builds for SM 75, 80, 86, 89, 120 and 121 on any machine; for Jetson and Hopper a kit is
    written, and the same command on the device builds the plans of that kit. Plans that are up to date are kept.

    \b
    internvl-edge build bundle --target rtx-4090
    internvl-edge build bundle --target l4 --batch 1:8:32 --max-host-mem 6GiB
    internvl-edge build bundle --target agx-orin-64gb -o orin-kit     then, on the Orin:  internvl-edge build orin-kit
    """
    from internvl_edge.commands.output.progress import shown_progress
    from internvl_edge.export.plans.build import build, build_options
    from internvl_edge.export.plans.build_report import build_text, trtexec_text

    options = build_options(**settings)
    with shown_progress() as progress:
        report = build(bundle, options, progress)
    show(build_text(report))
    if trtexec:
        show(trtexec_text(report))
