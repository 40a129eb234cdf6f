"""The tasks of a bundle as models of Triton's Python backend, which call the models of its graphs."""

from pathlib import Path

from internvl_edge.runtime.file_copy import copy_file
from internvl_edge.runtime.model import InternVL
from internvl_edge.runtime.package.graphs import PYTHON_MODEL, write_model
from internvl_edge.runtime.package.model_config import instances, parameters, tensors
from internvl_edge.runtime.package.options import RepositoryOptions
from internvl_edge.runtime.serve.models import served_models

_NEEDED = ("manifest.json", "tokenizer.model", "preprocessor.json")
"""Files of the bundle that a task reads; its graphs are models of the server."""


def write_tasks(model: InternVL, folder: Path, options: RepositoryOptions) -> list[str]:
    """Write a model for each task into `folder` and return their names."""
    bundle = model.bundle
    tasks = (task for name, task in served_models(bundle.manifest).items() if name not in bundle.manifest.graphs)
    served = {task.signature.name: task for task in tasks if task.signature.answers is None}
    for name, task in served.items():
        config = {
            "backend": "python",
            "max_batch_size": 0,  # Triton batches the requests of the graphs, so tasks need no batching of their own
            **tensors(task.signature, batched=False),
            **instances(options.task_instances, "cpu"),
            **parameters({"task": name, "max_batch": str(options.max_batch)}),
        }
        version = write_model(folder, name, config)
        (version / "model.py").write_text(PYTHON_MODEL, encoding="utf-8")
        for file in _NEEDED:
            if (bundle.path / file).is_file():
                copy_file(bundle.path / file, version / "bundle" / file)
    return list(served)
