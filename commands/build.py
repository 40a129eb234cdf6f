"""`build`: the TensorRT plans of a bundle, or a kit that the device builds from."""

from pathlib import Path
from typing import Any

import click

from internvl_edge.commands.options.parameters import BUNDLE, ByteSize, GivenPath, Names
from internvl_edge.commands.output.printing import show


@click.command("build")
@BUNDLE
@click.option("--target", help="Device, as agx-orin-64gb, l4, rtx-4090, or sm_89; not needed for a kit.")
@click.option("--graphs", type=Names(), help="Graphs to build; default: all of BUNDLE.")
@click.option("--batch", default="1:1:8", show_default=True, help="Pictures or texts in one call, min:opt:max.")
@click.option("--text-length", default="1:16:80", show_default=True, help="Tokens of a text, min:opt:max.")
@click.option(
    "--max-host-mem",
    type=ByteSize(),
    help="Memory that a build may take, as 12GiB: larger graphs are cut into parts.  [default: unlimited]",
)
@click.option(
    "--attention", default="auto", show_default=True, help="How attention is written: auto, op, pattern or plugin."
)
@click.option("--search-forms", is_flag=True, help="Try every form of a few blocks and build in the leanest.")
@click.option("-o", "--output", type=GivenPath(), help="Folder of a kit. Default: BUNDLE-TARGET.")
@click.option("--trtexec", is_flag=True, help="Print the trtexec commands of a kit, too.")
def build_command(bundle: Path, trtexec: bool, **settings: Any) -> None:
    """Build the TensorRT plans of BUNDLE for a device, or make a kit that the device builds from.

    TensorRT-RTX builds for SM 75, 80, 86, 89, 120 and 121 on any machine; for Jetson and Hopper a kit is written, and
    the same command on the device turns it into plans. What is there and current is kept.

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
