"""Time of ONNX Runtime's two CPU kernels for attention, by heads, rows and batch: `cpu_attention.py --threads 1`.

The choice in `runtime/backends/lowering/flash_attention.py` rests on these times. Both kernels run in turn; a cell is a
median.
"""

import time
from collections.abc import Callable
from functools import partial
from itertools import product
from statistics import median

import click
import numpy as np
import onnxruntime
from export_scale import machine
from onnx import parser

HEADS = ((3, 64), (12, 64), (16, 64), (25, 128))
"""Number and size of heads in the demo, ViT-B, InternViT-300M and InternViT-6B."""
ROWS = (26, 257, 577, 1025)
BATCHES = (1, 8)
LARGEST = 4 * 1025 * 1024
"""Largest number of values in q of a case that is measured."""
NODES = {
    "Attention": "Attention<q_num_heads = {heads}, kv_num_heads = {heads}>",
    "MultiHeadAttention": "com.microsoft.MultiHeadAttention<num_heads = {heads}>",
}
LEAST_SECONDS = 0.05
"""Shortest time in seconds of one measurement, which is filled with calls."""


def opened(node: str, heads: int, rows: int, width: int, threads: int) -> onnxruntime.InferenceSession:
    """Return a session of one node."""
    tensor = f"float[batch, {rows}, {width}]"
    graph = (
        f"g ({tensor} q, {tensor} k, {tensor} v) => ({tensor} y) {{ y = {NODES[node].format(heads=heads)}(q, k, v) }}"
    )
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["": 23, "com.microsoft": 1]> {graph}')
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def seconds(call: Callable[[], object], calls: int) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def case(heads: int, size: int, rows: int, batch: int, threads: int, repeats: int) -> list[float]:
    """Return the milliseconds of each node on random values."""
    rng = np.random.default_rng(0)
    feeds = {name: rng.normal(size=(batch, rows, heads * size)).astype(np.float32) for name in "qkv"}
    sessions = [opened(node, heads, rows, heads * size, threads) for node in NODES]
    calls = [partial(session.run, None, feeds) for session in sessions]
    count = max(1, int(LEAST_SECONDS / max(seconds(call, 2) for call in calls)))
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for taken, call in zip(times, calls, strict=True):
            call()
            taken.append(seconds(call, count))
    return [1e3 * median(taken) for taken in times]


@click.command()
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=7, show_default=True)
def main(threads: int, repeats: int) -> None:
    """Print the table."""
    click.echo(
        f"{machine()}; onnxruntime {onnxruntime.__version__}; {threads} threads, medians of {repeats} in turns\n"
    )
    click.echo("| heads | rows | batch | Attention, ms | MultiHeadAttention, ms | ratio |")
    click.echo("| --- | ---: | ---: | ---: | ---: | ---: |")
    for (heads, size), rows, batch in product(HEADS, ROWS, BATCHES):
        if heads * size * rows * batch <= LARGEST:
            plain, blocks = case(heads, size, rows, batch, threads, repeats)
            cells = f"{plain:.2f} | {blocks:.2f} | {blocks / plain:.2f}"
            click.echo(f"| {heads} x {size} | {rows} | {batch} | {cells} |")


if __name__ == "__main__":
    main()
