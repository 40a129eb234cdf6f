"""`package`: a bundle in the form that another server takes."""

from pathlib import Path
from typing import Any

import click

from internvl_edge.commands.options.batching import DEADLINE, MAX_BATCH, MAX_DELAY_MS
from internvl_edge.commands.options.numbers import (
    BATCH,
    MILLISECONDS,
    PROCESSES,
    QUEUE,
    SHARE,
    THREADS,
    Counts,
)
from internvl_edge.commands.options.parameters import BACKEND, BF16, BUNDLE, GivenPath
from internvl_edge.commands.output.printing import show


@click.group()
def package() -> None:
    """Lay a bundle out for another server: NVIDIA Triton, or Ray Serve."""


@package.command()
@BUNDLE
@click.option("-o", "--output", type=GivenPath(), required=True, help="Folder to make.")
@click.option(
    "--platform",
    type=click.Choice(["onnxruntime", "tensorrt", "runtime"]),
    default="onnxruntime",
    show_default=True,
    help="What runs the graphs: Triton's ONNX Runtime, its TensorRT, or this runtime in its Python backend.",
)
@click.option("--target", help="Whose plans, for tensorrt.  [default: the only ones that BUNDLE has]")
@click.option("--backend", default="auto", show_default=True, help="Of this runtime, for --platform runtime.")
@click.option(
    "--weights",
    type=click.Choice(["auto", "link"]),
    default="auto",
    show_default=True,
    help="auto: each graph has its own, sharing blocks where the file system can; link: graphs share one copy by hard"
    " links, which takes less room but onnx 1.23 refuses.",
)
@click.option("--max-batch", type=BATCH, default=16, show_default=True, help="Rows of one batch.")
@click.option("--max-delay-ms", type=MILLISECONDS, default=2.0, show_default=True, help="Wait for company.")
@click.option("--instances", type=PROCESSES, default=1, show_default=True, help="Of each graph.")
@click.option("--task-instances", type=PROCESSES, default=2, show_default=True, help="Of each task.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "gpu"]),
    default="auto",
    show_default=True,
    help="Where Triton places the graphs.",
)
@click.option("--gpus", type=Counts(0, 1023), default=(), help="Numbers of the GPUs to use.  [default: all]")
@click.option("-i", "--image", "images", multiple=True, type=GivenPath(), help="A picture to warm up on.")
@click.option("-t", "--text", "texts", multiple=True, help="A text to warm up on.")
def triton(bundle: Path, output: Path, **settings: Any) -> None:
    """Write a model repository for NVIDIA Triton: a model per graph, and the tasks encode_image, encode_text, classify
    and caption in Python on top, which take encoded pictures and strings.

    \b
    internvl-edge package triton bundle -o repository --platform tensorrt --target l4 -i photo.jpg
    tritonserver --model-repository repository
    """
    from internvl_edge.commands.output.progress import shown_progress
    from internvl_edge.runtime.package.options import RepositoryOptions
    from internvl_edge.runtime.package.repository import write_repository

    with shown_progress() as progress:
        models = write_repository(bundle, output, RepositoryOptions(**settings), progress)
    show(f"{output}: {len(models)} models: {', '.join(models)}")


@package.command()
@BUNDLE
@click.option("-o", "--output", type=GivenPath(), required=True, help="YAML file to write.")
@click.option(
    "--replicas",
    type=click.IntRange(1, 65536),
    default=1,
    show_default=True,
    help="Processes of the cluster.",
)
@click.option("--cpus", type=SHARE, default=1.0, show_default=True, help="Of a replica.")
@click.option("--gpus", type=SHARE, default=0.0, show_default=True, help="Of a replica; 0.5: two share one.")
@click.option("--http", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Port on every node.")
@BACKEND
@click.option("--threads", type=THREADS, help="Of a CPU backend.  [default: one for a small graph, else all]")
@BF16
@MAX_BATCH
@MAX_DELAY_MS
@click.option(
    "--queue",
    type=QUEUE,
    default=256,
    show_default=True,
    help="Requests that may wait at a replica; others get 429.",
)
@DEADLINE
def ray(bundle: Path, output: Path, replicas: int, cpus: float, gpus: float, http: int, **settings: Any) -> None:
    """Write the configuration of a Ray Serve application whose replicas answer the protocol of `serve`.

    BUNDLE must be at the same path on every node.

    \b
    internvl-edge package ray bundle -o internvl.yaml --replicas 4 --gpus 1
    serve deploy internvl.yaml
    """
    from internvl_edge.runtime.package.ray_config import RayServeOptions, write_config
    from internvl_edge.runtime.serve.options import ServeOptions

    placed = RayServeOptions(replicas=replicas, cpus=cpus, gpus=gpus, http=http)
    write_config(bundle, output, ServeOptions(**settings), placed)
    show(f"{output}: {replicas} replicas of {bundle}; start them with `serve deploy {output}`")
