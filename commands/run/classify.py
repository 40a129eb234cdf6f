"""`run classify`: classify pictures among class names."""

from pathlib import Path

import click

from internvl_edge.commands.options.request import Request, request_options, work_progress
from internvl_edge.commands.options.shared import BUNDLE, IMAGES, JSON
from internvl_edge.commands.run.ranking import show_ranking


@click.command()
@BUNDLE
@IMAGES
@click.option("-l", "--label", "labels", multiple=True, required=True, help="Name of a class; repeat for each class.")
@click.option(
    "--template",
    "templates",
    multiple=True,
    show_default="'{}', the name alone",
    help="Text around a class name, as 'a photo of {}'; repeat for each.",
)
@request_options
@JSON
def classify(
    bundle: Path,
    images: tuple[Path, ...],
    labels: tuple[str, ...],
    templates: tuple[str, ...],
    request: Request,
    as_json: bool,
) -> None:
    """Classify IMAGES among the labels, without training."""
    from internvl_edge.runtime.inputs.read import find_pictures
    from internvl_edge.runtime.outputs.results import require_unlike

    require_unlike("--label", labels)
    pictures = find_pictures(images)
    with request.open(bundle) as (model, stages):
        with work_progress(stages, "Classifying", len(pictures)) as monitor:
            scores = model.classify(pictures, labels, templates=templates or None, monitor=monitor)
        show_ranking(pictures, labels, scores, as_json)
