"""Warm-up samples, which Triton runs before it serves a graph: the user's pictures and texts where these fit."""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from internvl_edge.runtime.backends.graph_inputs import graph_inputs, sizes_of
from internvl_edge.runtime.backends.session import TensorInfo
from internvl_edge.runtime.model import InternVL
from internvl_edge.runtime.package.model_config import data_type
from internvl_edge.runtime.package.options import RepositoryOptions
from internvl_edge.runtime.serve.signature import Signature

_FOLDER = "warmup"
"""Folder in a model's folder in which Triton looks for warm-up files."""


def write_warm_up(model: InternVL, signature: Signature, folder: Path, options: RepositoryOptions) -> dict[str, Any]:
    """Write samples of a graph into its model's `folder`; return `model_warmup`: one row, and a full batch."""
    entries = []
    for phase in model.bundle.manifest.graphs[signature.name].use.phases or ("",):
        name = phase or "sample"
        rows = {key: values[0] for key, values in _samples(model, signature.name, phase, options).items()}
        inputs = [
            {"key": key, "value": _input(folder / _FOLDER, f"{name}.{key}", row)} for key, row in sorted(rows.items())
        ]
        sizes = dict.fromkeys((1, options.max_batch))
        entries += [{"name": f"{name} x {size}", "batch_size": size, "inputs": inputs} for size in sizes]
    return {"model_warmup": entries}


def _samples(model: InternVL, graph: str, phase: str, options: RepositoryOptions) -> dict[str, np.ndarray]:
    """Return inputs of batch 1: the first picture and text of `options`, and seeded random numbers for all others."""
    info = model.bundle.manifest.graphs[graph]
    specs = info.inputs
    takes = {spec.name: TensorInfo(spec.name, np.dtype(spec.dtype), spec.shape) for spec in specs}
    rng = np.random.default_rng(zlib.crc32(f"{graph} {phase}".encode()))
    samples = graph_inputs(graph, takes, specs, model.info, sizes_of(graph, phase, model.info, 1), rng)
    if "pixel_values" in samples and options.images:
        samples["pixel_values"] = model.preprocess(options.images[:1]).astype(samples["pixel_values"].dtype)
    if info.use.takes_texts and options.texts:
        samples["input_ids"] = model.tokenize(options.texts[:1])
    return samples


def _input(folder: Path, file: str, row: np.ndarray) -> Mapping[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(np.ascontiguousarray(row).tobytes())
    return {"data_type": data_type(row.dtype), "dims": list(row.shape), "input_data_file": file}
