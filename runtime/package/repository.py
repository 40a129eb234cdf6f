"""NVIDIA Triton's model repository of a bundle: a model per graph, and the whole tasks in Python on top of them."""

from pathlib import Path

from internvl_edge.runtime.model import InternVL
from internvl_edge.runtime.package.folders import new_folder
from internvl_edge.runtime.package.graphs import write_graphs
from internvl_edge.runtime.package.options import RepositoryOptions
from internvl_edge.runtime.package.tasks import write_tasks


def write_repository(bundle: Path, output: Path, options: RepositoryOptions) -> list[str]:
    """Write the new folder `output`, and return the names of its models.

    Files of the bundle are linked where the file system allows it, so that they take no more room.

    Raises:
        BundleError: `bundle` is damaged, or has no plans for this.
        InputError: `output` is there, cannot be written, or a sample cannot be read.
    """
    model = InternVL.open(bundle)
    with new_folder(output) as folder:
        return [*write_graphs(model, folder, options), *write_tasks(model, folder, options)]
