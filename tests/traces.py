"""Traced graphs that a run shares: a graph of one configuration is traced by the export that needs it first."""

import fcntl
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import onnx_ir as ir
import torch

from internvl_edge.export import compile as compile_module
from internvl_edge.export.canonical.trace import trace_graph
from internvl_edge.export.checkpoint.store.weight_store import attach_placeholders, placeholders
from internvl_edge.export.models.config import ModelConfig
from internvl_edge.runtime.progress import Advance


@contextmanager
def shared(folder: Path) -> Iterator[None]:
    """Let exports in this process, and in those that it forks, take graphs from `folder` instead of tracing them again.

    A traced graph holds no weights: it follows from its name, the configuration, the type and the feature layers.
    """
    folder.mkdir(exist_ok=True)

    def traced(
        name: str, config: ModelConfig, dtype: torch.dtype, feature_layers: Sequence[int], advance: Advance
    ) -> ir.Model:
        key = repr((name, config, dtype, tuple(feature_layers)))
        file = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.onnx"
        with file.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the system frees it if the process dies
            if file.exists():
                advance(1.0)
            else:
                _save(trace_graph(name, config, dtype, feature_layers, advance), file)
        return _load(file)

    with patch.object(compile_module, "trace_graph", traced):  # pytest would take a forked command half a second
        yield


def _save(model: ir.Model, file: Path) -> None:
    attach_placeholders(model)
    partial = file.with_suffix(".partial")
    ir.save(model, partial)
    partial.replace(file)


def _load(file: Path) -> ir.Model:
    model = ir.load(file)
    for name in placeholders(model):
        model.graph.initializers[name].const_value = None
    return model
