"""`package`: a bundle in the form that another server takes."""

from pathlib import Path
from typing import Any

import click

from internvl_edge.commands.parameters import BUNDLE, Integers


@click.group()
def package() -> None:
    """Lay a bundle out for another server: NVIDIA Triton, or Ray Serve."""


@package.command()
@BUNDLE
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder to make.")
@click.option(
    "--platform",
    type=click.Choice(["onnxruntime", "tensorrt", "runtime"]),
    default="onnxruntime",
    show_default=True,
    help="What runs the graphs: Triton's ONNX Runtime, its TensorRT, or this runtime in its Python backend.",
)
@click.option("--target", help="Whose plans, for tensorrt.  [default: the only ones that BUNDLE has]")
@click.option("--backend", default="auto", show_default=True, help="Of this runtime, for --platform runtime.")
@click.option("--max-batch", type=click.IntRange(1), default=16, show_default=True, help="Rows of one batch.")
@click.option("--max-delay-ms", type=click.FloatRange(0), default=2.0, show_default=True, help="Wait for company.")
@click.option("--instances", type=click.IntRange(1), default=1, show_default=True, help="Of each graph.")
@click.option("--task-instances", type=click.IntRange(1), default=2, show_default=True, help="Of each task.")
@click.option("--device", type=click.Choice(["auto", "cpu", "gpu"]), default="auto", show_default=True)
@click.option("--gpus", type=Integers(), default="", help="Numbers of the GPUs to use.  [default: all]")
@click.option(
    "-i", "--image", "images", multiple=True, type=click.Path(path_type=Path), help="A picture to warm up on."
)
@click.option("-t", "--text", "texts", multiple=True, help="A text to warm up on.")
def triton(bundle: Path, output: Path, **settings: Any) -> None:
    """Write a model repository for NVIDIA Triton: a model per graph, and the tasks encode_image, encode_text, classify
    and caption in Python on top, which take encoded pictures and strings.

    \b
    internvl-edge package triton bundle -o repository --platform tensorrt --target l4 -i photo.jpg
    tritonserver --model-repository repository
    """
    from internvl_edge.runtime.package.options import RepositoryOptions
    from internvl_edge.runtime.package.repository import write_repository

    models = write_repository(bundle, output, RepositoryOptions(**settings))
    click.echo(f"{output}: {len(models)} models: {', '.join(models)}")
