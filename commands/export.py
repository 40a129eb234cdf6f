"""`export`: write a bundle of verified ONNX graphs from a checkpoint."""

from typing import Any

import click

from internvl_edge.commands.options.numbers import SAMPLES, SITE_COUNT, Number
from internvl_edge.commands.options.sections import SectionedCommand
from internvl_edge.commands.options.shared import (
    ACCEPT_CONFIG,
    GRAPHS,
    IMAGE_SIZE,
    MAX_PIXELS,
    REVISION,
    STATE_DICT,
    clip_method,
    sample_count,
    target,
)
from internvl_edge.commands.options.value_types import Given, GivenPath, Integers
from internvl_edge.commands.output.printing import show
from internvl_edge.runtime.numbers.formats import DTYPES, QUANTIZED

_SECTIONS = {
    "Bundle": (
        "--output",
        "--graphs",
        "--dtype",
        "--weights",
        "--image-size",
        "--feature-layers",
        "--max-context",
        "--target",
    ),
    "Checkpoint": ("--revision", "--state-dict", "--accept-config"),
    "Verification": ("--samples", "--sample-count", "--max-pixels", "--atol", "--on-overflow"),
    "Quantization": (
        *("--precision", "--data", "--calibration-samples", "--ranges", "--method", "--smooth", "--keep-high"),
        "--fp8-attention",
    ),
    "Accuracy gate of a quantized bundle": ("--max-drop", "--gate-samples", "--budget-layers"),
}


@click.command(cls=SectionedCommand, sections=_SECTIONS)
@click.argument("checkpoint", type=Given())
@click.option("-o", "--output", type=GivenPath(), required=True, help="Folder of the bundle to write.")
@GRAPHS
@click.option(
    "--dtype",
    "--high_precision_dtype",
    "dtype",
    type=click.Choice(list(DTYPES)),
    show_default="fp16, but bf16 where the values of a language model leave fp16 no room",
    help="Type of weights and activations, and of what stays in high precision in a quantized bundle.",
)
@click.option(
    "--weights",
    type=click.Choice(["auto", "copy", "link"]),
    default="auto",
    show_default=True,
    help="How weights are stored. auto: share disk blocks with the checkpoint's files where the file system can, else"
    " write them; copy: write all weights; link: hard-link the checkpoint's files, which takes no room but is refused"
    " by onnx 1.23.",
)
@IMAGE_SIZE
@click.option(
    "--feature-layers",
    type=Integers(),
    default=(),
    help="Numbers of blocks whose patch maps are further outputs of the graph vision, as 11,23,35,47.",
)
@click.option(
    "--max-context",
    type=click.IntRange(1, 1 << 20),
    show_default="8192, or model_max_length of the tokenizer if that is less",
    help="Largest number of positions of a request to a language model: prompt, tiles and answer together.",
)
@target("Device to build TensorRT plans for as well")
@REVISION
@STATE_DICT
@ACCEPT_CONFIG
@click.option(
    "--samples",
    type=GivenPath(exists=True),
    show_default="pictures in CHECKPOINT, else synthetic ones",
    help="Folder, table or archive of pictures (and texts) to verify the graphs on.",
)
@sample_count(2, source="--samples", chosen="the first ones")
@click.option(
    "--atol",
    type=Number(0, 1e6),
    show_default="a relative tolerance of the dtype",
    help="Largest absolute difference between ONNX Runtime and torch with which a graph is written.",
)
@click.option(
    "--on-overflow",
    type=click.Choice(["fp32", "refuse"]),
    default="fp32",
    show_default=True,
    help="What to do where values overflow fp16. fp32: keep these nodes in fp32; refuse: end the export.",
)
@click.option(
    "--precision",
    "--quantize_mode",
    "precision",
    type=click.Choice(list(QUANTIZED)),
    help="Format to quantize the linears to, with Q/DQ nodes in the graphs; needs --data or --ranges.",
)
@click.option(
    "--data",
    type=Given(),
    help="Folder, table or archive of pictures (and captions) to calibrate and to measure accuracy on, or the word"
    " random.",
)
@MAX_PIXELS
@click.option(
    "--calibration-samples",
    type=SAMPLES,
    default=128,
    show_default=True,
    help="Number of pictures to take from --data for calibration, evenly spaced over it.",
)
@click.option(
    "--ranges",
    type=GivenPath(),
    help="Folder of ranges that `internvl-edge calibrate` wrote; nothing is measured then.",
)
@clip_method(default=None)
@click.option(
    "--smooth",
    default="auto",
    show_default=True,
    help="Smoothing: auto, off, or SmoothQuant's alpha from 0 to 1.",
)
@click.option(
    "--keep-high",
    "--nodes_to_exclude",
    "keep_high",
    multiple=True,
    help="Name or glob of linears that are not quantized but stay in --dtype; repeat for each.",
)
@click.option("--fp8-attention", is_flag=True, help="With --precision fp8: quantize the products of attention as well.")
@click.option(
    "--max-drop",
    type=Number(0, 100),
    default=0.5,
    show_default=True,
    help="Largest loss of accuracy in percentage points with which a bundle is written.",
)
@click.option(
    "--gate-samples",
    type=click.IntRange(0, 65536),
    default=64,
    show_default=True,
    help="Number of pictures to measure the loss of accuracy on; 0: measure neither the loss nor the sensitivity of"
    " linears.",
)
@click.option(
    "--budget-layers",
    type=SITE_COUNT,
    show_default="no limit",
    help="Largest number of sites to keep in high precision so that --max-drop is met.",
)
def export(**options: Any) -> None:
    """Write CHECKPOINT (a folder, a .pth file or a Hub id) as a bundle of verified ONNX graphs.

    Every graph is run on ONNX Runtime against the torch module before the bundle appears; an export that is
    killed leaves no partial bundle, and the next run continues from its last finished stage.

    \b
    internvl-edge export OpenGVLab/InternVL-14B-224px -o bundle
    internvl-edge export InternViT-300M-448px -o bundle --dtype bf16 --image-size 336
    internvl-edge export examples/emoji/checkpoint -o bundle --target rtx-4090 --samples examples/emoji/data/test.jsonl
    internvl-edge export CHECKPOINT -o bundle --precision int8 --data examples/emoji/data/calibration.jsonl
    """
    from internvl_edge.commands.output.progress import shown_progress
    from internvl_edge.export.compile import export_bundle
    from internvl_edge.export.export_report import report_text
    from internvl_edge.export.run.options import ExportOptions

    with shown_progress() as progress:
        report = export_bundle(ExportOptions(**options), progress)
    show(report_text(report))
