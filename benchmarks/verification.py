"""Cost of rounding and measuring in verification: `verification.py BUNDLE` runs each way in a process of its own."""

import resource
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import onnx_ir as ir

from internvl_edge.export.blockwise.segments import cut, run_segments
from internvl_edge.export.blockwise.widen import widen_bfloat16
from internvl_edge.export.numerics.reach import run_rounded
from internvl_edge.runtime.bundle.bundle import Bundle

WAYS = ("as it is", "rounded")


def plain(file: Path, feeds: dict[str, np.ndarray]) -> None:
    """Run a graph unchanged: ONNX Runtime computes fp16 in fp32 and does not round."""
    model = widen_bfloat16(ir.load(file))
    taken = {str(v.name): feeds[str(v.name)].astype(v.dtype.numpy()) for v in model.graph.inputs if v.dtype is not None}
    run_segments(ir.to_proto(model), cut(model.graph), file.parent, taken)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--way", type=click.Choice(WAYS), help="Run this one here; else each in a process.")
@click.option("--batch", default=1, show_default=True, help="Pictures.")
def main(bundle: Path, way: str | None, batch: int) -> None:
    """Print CPU seconds and peak memory of running the vision graph of BUNDLE on ONNX Runtime."""
    if way is None:
        click.echo("| vision graph | CPU seconds | peak GiB |\n| --- | ---: | ---: |")
        for one in WAYS:
            command = [sys.executable, __file__, str(bundle), "--way", one, "--batch", str(batch)]
            click.echo(subprocess.check_output(command, text=True).strip())
        return
    opened = Bundle.open(bundle, verify=False)
    size = opened.manifest.model.vision.image_size
    feeds = {"pixel_values": np.random.default_rng(0).standard_normal((batch, 3, size, size)).astype(np.float32)}
    before = resource.getrusage(resource.RUSAGE_SELF)
    (run_rounded if way == "rounded" else plain)(opened.graph_file("vision"), feeds)
    after = resource.getrusage(resource.RUSAGE_SELF)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    click.echo(f"| {way} | {seconds:.1f} | {after.ru_maxrss / 2**20:.2f} |")


if __name__ == "__main__":
    main()
