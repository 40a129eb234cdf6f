"""The command that writes bundles: export."""

from typing import Any

import click

from internvl_edge.commands.options.numbers import PIXELS, SAMPLES, SITES, Number
from internvl_edge.commands.options.parameters import (
    ACCEPT_CONFIG,
    MAX_PIXELS,
    STATE_DICT,
    Given,
    GivenPath,
    Integers,
    Names,
)
from internvl_edge.commands.output.printing import show
from internvl_edge.runtime.numbers.formats import DTYPES, QUANTIZED


@click.command()
@click.argument("checkpoint", type=Given())
@click.option("-o", "--output", type=GivenPath(), required=True, help="Bundle folder to write.")
@click.option("--graphs", type=Names(), help="Graphs to write; default: all that the checkpoint has weights for.")
@click.option(
    "--dtype",
    "--high_precision_dtype",
    "dtype",
    type=click.Choice(list(DTYPES)),
    default="fp16",
    show_default=True,
    help="Type of weights and activations.",
)
@click.option(
    "--weights",
    type=click.Choice(["auto", "copy", "link"]),
    default="auto",
    show_default=True,
    help="auto: share blocks with the checkpoint's files where the file system can, else write; copy: write all weights"
    " anew; link: hard-link the checkpoint's files, which takes no room but onnx 1.23 refuses.",
)
@click.option(
    "--image-size",
    type=PIXELS,
    help="Picture side in pixels; interpolates the position table. Default: the checkpoint's.",
)
@click.option(
    "--feature-layers",
    type=Integers(),
    default=(),
    help="Blocks whose patch maps `vision` also puts out, as 11,23,35,47.",
)
@click.option("--target", help="Also build plans for this device, as rtx-4090 or sm_89; see `targets` and `build`.")
@click.option(
    "--atol",
    type=Number(0, 1e6),
    help="Largest absolute difference to torch that may ship. Default: relative, per dtype.",
)
@click.option(
    "--on-overflow",
    type=click.Choice(["fp32", "refuse"]),
    default="fp32",
    show_default=True,
    help="Keep nodes whose values fp16 cannot hold in fp32, or refuse to export.",
)
@click.option(
    "--samples",
    type=GivenPath(exists=True),
    help="Folder, table or archive of real pictures (and texts) to verify on.",
)
@click.option("--sample-count", type=SAMPLES, default=2, show_default=True, help="How many of them.")
@click.option("--revision", help="Revision of a Hub id.")
@ACCEPT_CONFIG
@STATE_DICT
@click.option(
    "--precision",
    "--quantize_mode",
    "precision",
    type=click.Choice(list(QUANTIZED)),
    help="Quantize the linears to 8 bits, with Q/DQ in the graph; needs --data or --ranges.",
)
@click.option(
    "--data",
    type=Given(),
    help="Pictures (and captions) to calibrate and judge on: a folder, table or archive, or the word random.",
)
@MAX_PIXELS
@click.option("--calibration-samples", type=SAMPLES, default=128, show_default=True, help="How many to calibrate on.")
@click.option("--ranges", type=GivenPath(), help="What `calibrate` wrote, instead of measuring now.")
@click.option("--method", "--calibration_method", "method", help="Clip by auto, max, percentile, entropy or mse.")
@click.option("--smooth", default="auto", show_default=True, help="auto, off, or SmoothQuant's alpha from 0 to 1.")
@click.option(
    "--keep-high",
    "--nodes_to_exclude",
    "keep_high",
    multiple=True,
    help="Linears that stay in --dtype: a name or a glob; repeat for more.",
)
@click.option("--fp8-attention", is_flag=True, help="With fp8: quantize attention's products as well.")
@click.option(
    "--max-drop",
    type=Number(0, 100),
    default=0.5,
    show_default=True,
    help="Points of accuracy that may be lost on --data.",
)
@click.option("--budget-layers", type=SITES, help="Most sites to keep high to stay within --max-drop. Default: any.")
@click.option(
    "--gate-samples",
    type=click.IntRange(0, 65536),
    default=64,
    show_default=True,
    help="Pictures to judge the drop on; 0: none, no ranking.",
)
def export(**options: Any) -> None:
    """Write CHECKPOINT (a folder, a .pth file or a Hub id) as a bundle of verified ONNX graphs.

    Every graph is run on ONNX Runtime against the torch module before the bundle appears; a killed export leaves no
    half bundle, and the next run takes up what it had finished.

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
