"""Time of a picture on a CPU by backend, beside torch, ONNX Runtime and OpenVINO: `runtime.py FOLDER --part demo`.

Below FOLDER it exports the checkpoint in fp32 and in INT8 (fp16 or fp32 around the integers). All sides stand in one
process, run in turns, and give the median. `runtime.py --bundle BUNDLE` measures memory instead: a process of its own
answers one picture.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median

import click
import numpy as np
import torch
from export_scale import machine
from random_checkpoint import write_checkpoint
from torch import nn
from torch_model import load_model

from internvl_edge.export.checkpoint import open_checkpoint
from internvl_edge.export.models.graphs import graph_spec
from internvl_edge.runtime import InternVL
from internvl_edge.runtime.backends import SessionOptions

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "emoji"
BACKENDS = ("onnxruntime", "openvino", "auto")
BUNDLES = {"fp32": ("fp32", False), "int8": ("fp16", True), "int8-fp32": ("fp32", True), "int8-bf16": ("bf16", True)}
"""Name -> type of what is in high precision, and whether the linears are quantized."""
ERRORS_ONLY = 3
"""Log level of ONNX Runtime."""
KEEP_FP32 = {"INFERENCE_PRECISION_HINT": "f32"}
"""Setting for fp32 in OpenVINO, which otherwise uses bf16 on a processor that has it."""
LONG_SECONDS = 1.0
"""Seconds of a call above which no warm-up call is made."""
REST_SECONDS = 0.1
"""Pause in seconds before each turn, since the threads of the library before it spin for a while."""
RANDOM_ATOL = "5"
"""Tolerance of the export: towers of random weights amplify rounding, and only time is measured."""

Run = Callable[[np.ndarray], object]
"""Function that takes pixels ``[B, 3, S, S]``."""

MEMORY_PROBE = """
import json, sys, time
import numpy as np
from internvl_edge.runtime import InternVL
start = time.perf_counter()
model = InternVL.open(sys.argv[1], backend=sys.argv[2], verify=False)
size = model.info.vision.image_size
model.run_graph("vision", {"pixel_values": np.zeros((1, 3, size, size), np.float32)})
seconds = time.perf_counter() - start
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
memory = {name: int(status[name].split()[0]) / 2**20 for name in ("VmHWM", "RssAnon", "RssFile")}
print(json.dumps({"seconds": seconds, **memory, "settings": dict(model.session("vision").settings)}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One model of the table."""

    checkpoint: Path
    data: str
    samples: int
    scales: tuple[str, ...] = ()
    """Options of `export` for INT8; the default loses the least accuracy."""


def part(name: str, folder: Path) -> Part:
    """Return a checkpoint and its calibration data; a random one is written first."""
    if name == "demo":
        return Part(checkpoint=EXAMPLE / "checkpoint", data=str(EXAMPLE / "data" / "calibration.jsonl"), samples=128)
    checkpoint = folder / name / "checkpoint"
    if not checkpoint.exists():
        write_checkpoint(checkpoint, "internvit-300m")
    quick = ("--smooth", "off", "--method", "max")  # no search: random weights have no accuracy to keep
    return Part(checkpoint=checkpoint, data="random", samples=16, scales=quick)


def bundles(model: Part, folder: Path) -> dict[str, Path]:
    """Return the bundles of a model, which are exported if they are not there."""
    ranges = folder / "ranges"
    if not ranges.exists():
        _edge("calibrate", model.checkpoint, "-o", ranges, "--data", model.data, "--sample-count", str(model.samples))
    for name, (dtype, quantized) in BUNDLES.items():
        if not (folder / name).exists():
            options = ["--graphs", "vision", "--dtype", dtype, "--sample-count", "1", "--atol", RANDOM_ATOL]
            if quantized:
                options += ["--precision", "int8", "--ranges", str(ranges), "--gate-samples", "0", *model.scales]
            _edge("export", model.checkpoint, "-o", folder / name, *options)
    return {name: folder / name for name in BUNDLES}


def _edge(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "internvl_edge.cli", *map(str, arguments)]
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        raise click.ClickException(f"failed: {' '.join(command)}")


def torch_sides(checkpoint_folder: Path) -> Iterator[tuple[str, Callable[[], Run]]]:
    """Yield torch in fp32, in bf16, and compiled."""

    def side(dtype: torch.dtype, compiled: bool) -> Run:
        module = torch_vision(checkpoint_folder, dtype)
        call = torch.compile(module) if compiled else module

        @torch.inference_mode()
        def run(pixels: np.ndarray) -> object:
            return call(torch.from_numpy(pixels))

        return run

    yield "torch eager fp32", lambda: side(torch.float32, False)
    yield "torch eager bf16", lambda: side(torch.bfloat16, False)
    yield "torch.compile fp32", lambda: side(torch.float32, True)


def torch_vision(checkpoint_folder: Path, dtype: torch.dtype) -> nn.Module:
    """Return the vision graph of a checkpoint in torch."""
    config, model = load_model(checkpoint_folder)
    return graph_spec("vision", config, model.to(dtype), dtype).module


def onnxruntime_side(graph: Path, threads: int) -> Run:
    """Return ONNX Runtime on a graph as the file has it, with its own defaults."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, ERRORS_ONLY
    session = onnxruntime.InferenceSession(str(graph), options)
    return lambda pixels: session.run(None, {"pixel_values": pixels})


def openvino_side(graph: Path, threads: int, **more: str) -> Run:
    """Return OpenVINO on a graph as the file has it, tuned for latency."""
    import openvino

    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", **more}
    compiled = openvino.Core().compile_model(str(graph), "CPU", options)
    request = compiled.create_infer_request()
    return lambda pixels: request.infer({"pixel_values": pixels})


def our_side(bundle: Path, backend: str, options: SessionOptions) -> Run:
    """Return the runtime on a bundle."""
    model = InternVL.open(bundle, backend, verify=False, options=options)
    click.echo(f"{bundle.name}, {backend}: {dict(model.session('vision').settings)}", err=True)
    return lambda pixels: model.run_graph("vision", {"pixel_values": pixels})


def sides(model: Part, found: dict[str, Path], threads: int, batch: int) -> Iterator[tuple[str, Callable[[], Run]]]:
    """Yield the name of every library and setting, and a function that opens it."""
    ours = SessionOptions(threads=threads, rows=batch)
    yield from torch_sides(model.checkpoint)
    for name, bundle in found.items():
        precision = "int8" if BUNDLES[name][1] else "fp32"
        graph = bundle / "onnx" / precision / "vision.onnx"
        yield f"plain ONNX Runtime, {name}", partial(onnxruntime_side, graph, threads)
        yield f"plain OpenVINO, {name}", partial(openvino_side, graph, threads)
        yield f"plain OpenVINO kept in fp32, {name}", partial(openvino_side, graph, threads, **KEEP_FP32)
        for backend in BACKENDS:
            yield f"ours {backend}, {name}", partial(our_side, bundle, backend, ours)
        yield f"ours auto --bf16, {name}", partial(our_side, bundle, "auto", replace(ours, bf16=True))


def opened(
    all_sides: Iterator[tuple[str, Callable[[], Run]]], only: tuple[str, ...], pixels: np.ndarray
) -> dict[str, Run | str]:
    """Return those that run here, and why the others do not; `only` are patterns of their names."""
    found: dict[str, Run | str] = {}
    for name, open_one in all_sides:
        if not any(fnmatch(name, pattern) for pattern in only):
            continue
        try:
            run = open_one()
            run(pixels)
            found[name] = run
        except Exception as error:  # a peer's refusal, of whatever class, is a line of the table
            found[name] = str(error).splitlines()[0][:80]
        click.echo(f"{name}: {'opened' if callable(found[name]) else found[name]}", err=True)
    return found


def medians(runs: dict[str, Run], pixels: np.ndarray, repeats: int) -> dict[str, float]:
    """Return the milliseconds of each, measured in turn."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            time.sleep(REST_SECONDS)
            first = seconds(run, pixels)
            times[name].append(first if first > LONG_SECONDS else seconds(run, pixels))
    return {name: 1e3 * median(taken) for name, taken in times.items()}


def seconds(run: Run, pixels: np.ndarray) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    run(pixels)
    return time.perf_counter() - start


def compare(
    model: Part, folder: Path, batches: tuple[int, ...], only: tuple[str, ...], threads: int, repeats: int
) -> None:
    """Print the table of one model."""
    found = bundles(model, folder)
    size = open_checkpoint(model.checkpoint).config.vision.image_size
    pixels = np.random.default_rng(0).normal(size=(max(batches), 3, size, size)).astype(np.float32)
    columns = []
    for batch in batches:  # opened anew: `auto` chooses for the batch
        all_sides = opened(sides(model, found, threads, batch), only, pixels[:1])
        runs = {name: run for name, run in all_sides.items() if not isinstance(run, str)}
        columns.append(medians(runs, pixels[:batch], repeats))
        names = list(all_sides)
        del runs, all_sides
    click.echo("| | " + " | ".join(f"batch {batch}, ms" for batch in batches) + " |")
    click.echo("| --- |" + " ---: |" * len(batches))
    for name in names:
        cells = [f"{column[name]:.1f}" if name in column else "-" for column in columns]
        click.echo(f"| {name} | {' | '.join(cells)} |")


def memory(bundle: Path, backend: str) -> None:
    """Print the memory of one answer in a process of its own."""
    command = [sys.executable, "-c", MEMORY_PROBE, str(bundle), backend]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise click.ClickException(f"{bundle}: gave no answer, exit code {done.returncode}")
    figures = json.loads(done.stdout)
    click.echo("| backend | open and answer, s | peak, GiB | own, GiB | mapped, GiB |")
    click.echo("| --- | ---: | ---: | ---: | ---: |")
    sizes = " | ".join(f"{figures[name]:.2f}" for name in ("VmHWM", "RssAnon", "RssFile"))
    click.echo(f"| {backend} | {figures['seconds']:.1f} | {sizes} |\n\n{figures['settings']}")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@click.option("--part", "parts", multiple=True, type=click.Choice(["demo", "300m"]), help="Default: both.")
@click.option("--batch", "batches", multiple=True, type=click.IntRange(1), default=(1, 8), show_default=True)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=7, show_default=True)
@click.option("--only", multiple=True, default=("*",), help="Pattern of the names of sides; repeat for more.")
@click.option("--bundle", type=click.Path(exists=True, path_type=Path), help="Measure one answer's memory instead.")
@click.option("--backend", default="onnxruntime", show_default=True, help="Of --bundle.")
def main(
    folder: Path | None,
    parts: tuple[str, ...],
    batches: tuple[int, ...],
    threads: int,
    repeats: int,
    only: tuple[str, ...],
    bundle: Path | None,
    backend: str,
) -> None:
    """Print milliseconds of the vision graph, below FOLDER, or the memory of --bundle."""
    if bundle is not None:
        memory(bundle, backend)
        return
    if folder is None:
        raise click.UsageError("give FOLDER, or --bundle")
    torch.set_num_threads(threads)
    os.environ["INTERNVL_EDGE_CACHE"] = str(folder / "cache")  # `auto` decides here, not on an earlier day
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime", "openvino"))
    load = f"load average {os.getloadavg()[0]:.1f} before"
    click.echo(f"{machine()}; {libraries}; {threads} threads, median of {repeats} in turns; {load}")
    for name in parts or ("demo", "300m"):
        click.echo(f"\n{name}\n")
        compare(part(name, folder), folder / name, batches, only, threads, repeats)


if __name__ == "__main__":
    main()
