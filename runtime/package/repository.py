"""NVIDIA Triton's model repository of a bundle: a model for each graph, and a Python model for each task."""

from pathlib import Path

from internvl_edge.runtime.bundle.declared_types import BFLOAT16
from internvl_edge.runtime.errors import BundleError
from internvl_edge.runtime.model import InternVL
from internvl_edge.runtime.package.folders import new_folder
from internvl_edge.runtime.package.graphs import write_graphs
from internvl_edge.runtime.package.options import RepositoryOptions
from internvl_edge.runtime.package.tasks import write_tasks
from internvl_edge.runtime.progress import Progress, Silent


def write_repository(
    bundle: Path, output: Path, options: RepositoryOptions, progress: Progress | None = None
) -> list[str]:
    """Write the repository into the new folder `output`, and return the names of its models.

    Each graph gets the weights that it uses; files share blocks with the bundle's where the file system supports it.
    The bundle is not changed.

    Raises:
        BundleError: `bundle` is damaged, or lacks the needed plans.
        InputError: `output` exists or cannot be written, or a sample cannot be read.
    """
    progress = progress or Silent()
    with progress.task("Opening", 1, "bundle") as advance:
        model = InternVL.open(bundle)
        advance(1)
    _require_numpy_types(model)
    graphs = len(model.bundle.manifest.graphs)
    with new_folder(output) as folder, progress.task("Writing graphs", graphs, "graphs") as advance:
        return [*write_graphs(model, folder, options, advance), *write_tasks(model, folder, options)]


def _require_numpy_types(model: InternVL) -> None:
    """Check that Triton's Python backend, which passes tensors as NumPy arrays, supports every type."""
    bundle = model.bundle
    found = [
        f"{graph} {spec.name}"
        for graph, info in bundle.manifest.graphs.items()
        for spec in (*info.inputs, *info.outputs)
        if spec.dtype == BFLOAT16
    ]
    if found:
        raise BundleError(
            f"{bundle.path}: Triton's Python backend has no bfloat16 ({', '.join(found)}); export with --dtype fp16"
            " or fp32"
        )
