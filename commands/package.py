"""`package`: write a bundle in the form that another server takes."""

from pathlib import Path
from typing import Any

import click

from internvl_edge.commands.options.batching import DEADLINE, MAX_BATCH, MAX_DELAY_MS, QUEUE
from internvl_edge.commands.options.numbers import PROCESS_COUNT, SHARE, Counts
from internvl_edge.commands.options.shared import BACKEND, BF16, BUNDLE, target, threads
from internvl_edge.commands.options.value_types import GivenPath
from internvl_edge.commands.output.printing import show


@click.group()
def package() -> None:
    """Write a bundle for another server: NVIDIA Triton or Ray Serve."""


@package.command()
@BUNDLE
@click.option("-o", "--output", type=GivenPath(), required=True, help="Folder of the model repository to write.")
@click.option(
    "--platform",
    type=click.Choice(["onnxruntime", "tensorrt", "runtime"]),
    default="onnxruntime",
    show_default=True,
    help="Triton backend that runs the graphs: its ONNX Runtime, its TensorRT, or this runtime in its Python backend,"
    " which takes --backend.",
)
@target("Device whose plans --platform tensorrt takes", "the only one that BUNDLE has plans for")
@BACKEND
@click.option(
    "--weights",
    type=click.Choice(["auto", "link"]),
    default="auto",
    show_default=True,
    help="How weights are stored. auto: a copy for each graph, which share disk blocks where the file system can; link:"
    " one copy that all graphs hard-link, which takes less room but is refused by onnx 1.23.",
)
@MAX_BATCH
@MAX_DELAY_MS
@click.option(
    "--instances", type=PROCESS_COUNT, default=1, show_default=True, help="Number of instances of each graph."
)
@click.option(
    "--task-instances", type=PROCESS_COUNT, default=2, show_default=True, help="Number of instances of each task."
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "gpu"]),
    default="auto",
    show_default=True,
    help="Kind of device on which Triton places the graphs.",
)
@click.option(
    "--gpus",
    type=Counts(0, 1023),
    default=(),
    show_default="all",
    help="Numbers of the GPUs to place graphs on, as 0,1.",
)
@click.option(
    "-i", "--image", "images", multiple=True, type=GivenPath(), help="Picture to warm up on; repeat for each."
)
@click.option("-t", "--text", "texts", multiple=True, help="Text to warm up on; repeat for each.")
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
    help="Number of processes on the cluster that each hold the model.",
)
@click.option("--cpus", type=SHARE, default=1.0, show_default=True, help="Number of CPUs of a replica.")
@click.option(
    "--gpus",
    type=SHARE,
    default=0.0,
    show_default=True,
    help="Number of GPUs of a replica; 0.5: two replicas share one.",
)
@click.option(
    "--http", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Port of HTTP on every node."
)
@BACKEND
@threads()
@BF16
@MAX_BATCH
@MAX_DELAY_MS
@QUEUE
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
