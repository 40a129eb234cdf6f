"""The graphs of a bundle as Triton models: on ONNX Runtime, on TensorRT, or on this runtime in its Python backend."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from internvl_edge.runtime.bundle.bundle import Bundle, sha256_file
from internvl_edge.runtime.bundle.engines import EngineRecord, GraphEngines, plan_findings
from internvl_edge.runtime.bundle.graph_roles import LANGUAGE_MODEL, TOKEN_EMBEDDER
from internvl_edge.runtime.bundle.manifest import FileInfo
from internvl_edge.runtime.errors import BundleError
from internvl_edge.runtime.file_copy import copy_file
from internvl_edge.runtime.model import InternVL
from internvl_edge.runtime.package.folders import FileCopies
from internvl_edge.runtime.package.graph_copy import copy_graph
from internvl_edge.runtime.package.model_config import batching, config_text, instances, parameters, tensors
from internvl_edge.runtime.package.options import RepositoryOptions
from internvl_edge.runtime.package.warm_up import write_warm_up
from internvl_edge.runtime.progress import Advance
from internvl_edge.runtime.serve.models import served_models
from internvl_edge.runtime.serve.signature import Signature

VERSION = "1"
_CHAT = (LANGUAGE_MODEL, TOKEN_EMBEDDER)
"""Roles of graphs that answer conversations."""
PYTHON_MODEL = "from internvl_edge.runtime.package.python_backend import TritonPythonModel  # noqa: F401\n"
"""Content of `model.py`, in which Triton looks for the class; the code is in the installed package."""


def write_model(folder: Path, name: str, config: Mapping[str, Any]) -> Path:
    """Write the `config.pbtxt` of a model, and return the folder of its one version."""
    version = folder / name / VERSION
    version.mkdir(parents=True, exist_ok=True)
    (folder / name / "config.pbtxt").write_text(config_text({"name": name, **config}), encoding="utf-8")
    return version


def packaged_graphs(bundle: Bundle) -> tuple[str, ...]:
    """Return the graphs that become models: all but those of a language model, whose cache a request cannot carry."""
    graphs = bundle.manifest.graphs
    return tuple(name for name, graph in graphs.items() if graph.use.role not in _CHAT)


def write_graphs(
    model: InternVL, folder: Path, options: RepositoryOptions, advance: Advance = lambda graphs: None
) -> list[str]:
    """Write a model for each graph into `folder` and return their names; call `advance` after each graph.

    Raises:
        BundleError: The target has no plans of the standard TensorRT, or damaged ones.
    """
    packaged = packaged_graphs(model.bundle)
    writers = {"onnxruntime": _on_onnxruntime, "tensorrt": _on_tensorrt, "runtime": _on_runtime}
    written = []
    for name in writers[options.platform](model, folder, options):
        written.append(name)
        if name in packaged:
            advance(1)
    return written


def _on_onnxruntime(model: InternVL, folder: Path, options: RepositoryOptions) -> Iterator[str]:
    copies = FileCopies(link=options.weights == "link")
    for graph in packaged_graphs(model.bundle):
        config = _config(model, graph, folder, options)
        version = write_model(folder, graph, {"platform": "onnxruntime_onnx", **config})
        copy_graph(model.bundle.graph_file(graph), version / "model.onnx", copies)
        yield graph


def _on_tensorrt(model: InternVL, folder: Path, options: RepositoryOptions) -> Iterator[str]:
    plans, record = _plans(model.bundle, options.target)
    packaged = packaged_graphs(model.bundle)
    for graph, engines in ((name, found) for name, found in record.graphs.items() if name in packaged):
        limited = replace(options, max_batch=min(options.max_batch, engines.max_rows or options.max_batch))
        if len(engines.plans) == 1:
            config = {"platform": "tensorrt_plan", **_config(model, graph, folder, limited)}
            copy_file(plans / engines.plans[0].file, write_model(folder, graph, config) / "model.plan")
        else:
            yield from _chain(model, graph, engines, plans, folder, limited)
        yield graph


def _chain(
    model: InternVL, graph: str, engines: GraphEngines, plans: Path, folder: Path, options: RepositoryOptions
) -> Iterator[str]:
    """Write the parts of a graph that was cut, and an ensemble that passes tensors between them.

    The inputs and outputs of a part are not written: Triton reads them from its plan.
    """
    steps = []
    for number, plan in enumerate(engines.plans, 1):
        name = f"{graph}_part{number}"
        config = {"platform": "tensorrt_plan", "max_batch_size": options.max_batch, **_instances(options)}
        copy_file(plans / plan.file, write_model(folder, name, config) / "model.plan")
        steps.append(
            {
                "model_name": name,
                "model_version": -1,
                "input_map": [{"key": key, "value": key} for key in plan.inputs],
                "output_map": [{"key": key, "value": key} for key in plan.outputs],
            }
        )
        yield name
    ensemble = {
        "platform": "ensemble",
        "max_batch_size": options.max_batch,
        **tensors(_signature(model.bundle, graph), batched=True),
        "ensemble_scheduling": {"step": steps},
    }
    write_model(folder, graph, ensemble)


def _on_runtime(model: InternVL, folder: Path, options: RepositoryOptions) -> Iterator[str]:
    copies = FileCopies(link=options.weights == "link")
    for graph in packaged_graphs(model.bundle):
        config = _config(model, graph, folder, options)
        settings = parameters({"graph": graph, "backend": options.backend})
        version = write_model(folder, graph, {"backend": "python", **config, **settings})
        (version / "model.py").write_text(PYTHON_MODEL, encoding="utf-8")
        _write_part(model.bundle, graph, version / "bundle", copies)
        yield graph


def _write_part(bundle: Bundle, graph: str, folder: Path, copies: FileCopies) -> None:
    """Write a bundle with one graph."""
    manifest, info = bundle.manifest, bundle.manifest.graphs[graph]
    copied = copy_graph(bundle.path / info.file, folder / info.file, copies)
    files = {name: manifest.files[name] for name in (path.relative_to(folder).as_posix() for path in copied.same)}
    for path in copied.new:
        files[path.relative_to(folder).as_posix()] = FileInfo(bytes=path.stat().st_size, sha256=sha256_file(path))
    replace(manifest, graphs={graph: info}, files=files).save(folder / "manifest.json")


def _config(model: InternVL, graph: str, folder: Path, options: RepositoryOptions) -> dict[str, Any]:
    signature = _signature(model.bundle, graph)
    return {
        "max_batch_size": options.max_batch,
        **tensors(signature, batched=True),
        **batching(options.max_delay_ms),
        **_instances(options),
        **write_warm_up(model, signature, folder / graph, options),
    }


def _instances(options: RepositoryOptions) -> dict[str, Any]:
    return instances(options.instances, options.device, options.gpus)


def _signature(bundle: Bundle, graph: str) -> Signature:
    return served_models(bundle.manifest)[graph].signature


def _plans(bundle: Bundle, target: str | None) -> tuple[Path, EngineRecord]:
    """Return the folder of a target's plans and their record."""
    engines = bundle.path / "engines"
    targets = sorted(path.parent.name for path in engines.glob("*/engine.json"))
    chosen = [target] if target else targets
    if len(chosen) != 1 or chosen[0] not in targets:
        have = f"plans for {', '.join(targets)}" if targets else "no plans"
        raise BundleError(f"{bundle.path}: has {have}; name one with --target, or build it with `internvl-edge build`")
    folder = engines / chosen[0]
    record = EngineRecord.load(folder)
    if record.flavour != "tensorrt":
        raise BundleError(
            f"{folder}: its plans are of TensorRT-RTX, which Triton cannot run; package with --platform runtime"
        )
    plans = [plan for graph in record.graphs.values() for plan in graph.plans]
    if wrong := [finding for plan in plans for finding in plan_findings(plan, folder)]:
        raise BundleError(f"{folder}: {'; '.join(wrong)}; build the plans again")
    return folder, record
