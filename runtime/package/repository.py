"""NVIDIA Triton's model repository of a bundle: a model for each graph, and a Python model for each task."""

import logging
from pathlib import Path

from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.bundle.declared_types import BFLOAT16
from internvl_edge.runtime.errors import BundleError
from internvl_edge.runtime.model import InternVL
from internvl_edge.runtime.package.folders import new_folder
from internvl_edge.runtime.package.graphs import packaged_graphs, write_graphs
from internvl_edge.runtime.package.options import RepositoryOptions
from internvl_edge.runtime.package.tasks import write_tasks
from internvl_edge.runtime.progress import Progress, Silent

logger = logging.getLogger(__name__)

_SERVE = "`internvl-edge serve` answers conversations"


def write_repository(
    bundle: Path, output: Path, options: RepositoryOptions, progress: Progress | None = None
) -> list[str]:
    """Write the repository into the new folder `output`, and return the names of its models.

    Each graph gets the weights that it uses; files share blocks with the bundle's where the file system supports it.
    The bundle is not changed.

    Raises:
        BundleError: `bundle` is damaged, lacks the needed plans, or has no graph but a language model.
        InputError: `output` exists or cannot be written, or a sample cannot be read.
    """
    progress = progress or Silent()
    with progress.task("Opening", 1, "bundle") as advance:
        model = InternVL.open(bundle)
        advance(1)
    graphs = _packaged(model.bundle)
    _require_numpy_types(model.bundle, graphs)
    with new_folder(output) as folder, progress.task("Writing graphs", len(graphs), "graphs") as advance:
        return [*write_graphs(model, folder, options, advance), *write_tasks(model, folder, options)]


def _packaged(bundle: Bundle) -> tuple[str, ...]:
    """Return the graphs that are packaged, and warn about those that are not.

    Raises:
        BundleError: None is.
    """
    packaged = packaged_graphs(bundle)
    left_out = [name for name in bundle.manifest.graphs if name not in packaged]
    if not packaged:
        raise BundleError(f"{bundle.path}: Triton has no chat here, and the bundle has nothing else; {_SERVE}")
    if left_out:
        logger.warning("%s: left out, Triton has no chat here; %s", ", ".join(left_out), _SERVE)
    return packaged


def _require_numpy_types(bundle: Bundle, graphs: tuple[str, ...]) -> None:
    """Check that Triton's Python backend, which passes tensors as NumPy arrays, supports every type."""
    infos = {graph: bundle.manifest.graphs[graph] for graph in graphs}
    found = [
        f"{graph} {spec.name}"
        for graph, info in infos.items()
        for spec in (*info.inputs, *info.outputs)
        if spec.dtype == BFLOAT16
    ]
    if found:
        raise BundleError(
            f"{bundle.path}: Triton's Python backend has no bfloat16 ({', '.join(found)}); export with --dtype fp16"
            " or fp32"
        )
