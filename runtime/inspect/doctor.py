"""`internvl-edge doctor`: the installed packages, the device, and the predicted needs of a bundle on a target.

Figures about plans are predictions from the sizes of the graphs; only a build gives true ones.
"""

import importlib.metadata
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from internvl_edge.runtime.backends.cuda import Device, find_device
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.errors import EngineError
from internvl_edge.runtime.inspect.graph_stats import axis_sizes, external_bytes, load_graph
from internvl_edge.runtime.inspect.shapes import peak_activation_bytes
from internvl_edge.runtime.targets.data_sheet import Target
from internvl_edge.runtime.targets.estimate import host_peak_bytes, plan_seconds
from internvl_edge.runtime.targets.flavour import flavour_for
from internvl_edge.runtime.targets.targets import find_target, require_precision

_PACKAGES = (
    "internvl-edge",
    "numpy",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "onnxruntime-gpu",
    "torch",
    "tensorrt",
    "tensorrt-rtx-cu13-bindings",
    "onnxruntime-ep-nv-tensorrt-rtx-cu13",
    "pycuda",
)
_LARGEST_BATCH = 8
"""Largest batch of the profiles that `build` makes by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphPrediction:
    """Predicted memory and build time of one graph."""

    name: str
    plan_bytes: int
    """Size of the weights as the graph stores them."""
    activation_bytes: int
    """Activations at the largest batch: an upper bound, since a builder fuses layers and reuses memory."""
    build_host_bytes: int
    build_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """The result of `diagnose`."""

    python: str
    machine: str
    packages: dict[str, str | None]
    """Package -> version; None if it is not installed."""
    device: Device | str
    """The first CUDA device, or the reason why there is none."""
    target: Target | None = None
    builds_with: str | None = None
    """The TensorRT that builds for the target here; None: plans are built on the device, from a kit."""
    blocks: tuple[str, ...] = ()
    """Reasons why this bundle cannot run on the target."""
    graphs: tuple[GraphPrediction, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the diagnosis as a JSON object, without the pattern for the names that drivers report."""
        found = asdict(self)
        if found["target"] is not None:
            del found["target"]["driver_name"]
        return found


def diagnose(path: Path | None, target_name: str | None) -> Diagnosis:
    """Return the diagnosis of this machine, of the bundle in folder `path` and of a target, if these are given.

    Raises:
        EdgeError: The bundle cannot be opened, or the target is not known.
    """
    bundle = Bundle.open(path, verify=False) if path is not None else None
    target = find_target(target_name) if target_name is not None else None
    builds_with, lacking = _builds_with(target)
    graphs = tuple(_predictions(bundle)) if bundle is not None else ()
    return Diagnosis(
        python=platform.python_version(),
        machine=f"{platform.system()} {platform.machine()}",
        packages={name: _version(name) for name in _PACKAGES},
        device=find_device(),
        target=target,
        builds_with=builds_with,
        blocks=(*lacking, *_blocks(bundle, target, graphs)) if target is not None else (),
        graphs=graphs,
    )


def diagnosis_text(found: Diagnosis) -> str:
    """Return the diagnosis as text."""
    device = found.device
    lines = [f"Python {found.python} on {found.machine}"]
    lines += [f"  {name:<38} {version or 'not installed'}" for name, version in found.packages.items()]
    if isinstance(device, Device):
        lines.append(f"GPU: {device.name}, sm_{device.sm}, {_gib(device.memory_bytes)}, CUDA {device.driver}")
    else:
        lines.append(f"GPU: {device}")
    if found.target is not None:
        how = f"built here by {found.builds_with}" if found.builds_with else "built on the device, from a kit"
        lines.append(f"target {found.target.name} (sm_{found.target.sm}): {how}")
    if found.graphs:
        lines += ["", *_table(found)]
    lines += [f"blocked: {what}" for what in found.blocks]
    if found.target is not None and found.graphs and not found.blocks:
        lines.append("nothing blocks it")
    return "\n".join(lines)


def _table(found: Diagnosis) -> Iterator[str]:
    yield "predicted           plan    activations   build memory   build time"
    for graph in found.graphs:
        yield (
            f"  {graph.name:<10} {_gib(graph.plan_bytes):>11} {_gib(graph.activation_bytes):>14} "
            f"{_gib(graph.build_host_bytes):>14} {graph.build_seconds:>10.0f} s"
        )
    yield (
        f"all plans loaded: {_gib(_device_bytes(found.graphs))} with the activations of one; activations at batch "
        f"{_LARGEST_BATCH}, before any fusion"
    )


def _predictions(bundle: Bundle) -> Iterator[GraphPrediction]:
    model_info = bundle.manifest.model
    wanted = {
        "batch": _LARGEST_BATCH,
        "texts": _LARGEST_BATCH,
        "length": model_info.text.max_text_length if model_info.text else 1,
    }
    for name, info in bundle.manifest.graphs.items():
        model = load_graph(bundle, name)
        weights = external_bytes(model)
        yield GraphPrediction(
            name=name,
            plan_bytes=weights,
            activation_bytes=peak_activation_bytes(name, model, axis_sizes(info, model_info.num_query_tokens, wanted)),
            build_host_bytes=host_peak_bytes(weights),
            build_seconds=plan_seconds(weights),
        )


def _builds_with(target: Target | None) -> tuple[str | None, tuple[str, ...]]:
    """Return the TensorRT that builds for `target` here, and reasons why none does."""
    try:
        flavour = flavour_for(target) if target is not None else None
    except EngineError as error:
        return None, (str(error),)
    return (f"{flavour.name} {flavour.version}" if flavour is not None else None), ()


def _blocks(bundle: Bundle | None, target: Target, graphs: tuple[GraphPrediction, ...]) -> Iterator[str]:
    if bundle is None:
        return
    try:
        require_precision(target, bundle.manifest.precision)
    except EngineError as error:
        yield str(error)
    if target.sheet is None:
        return
    needed, there = _device_bytes(graphs), target.sheet.memory_gib * 2**30
    if needed > there:
        yield (
            f"all plans together are predicted to need {_gib(needed)}, {target.name} has {_gib(round(there))}; "
            "export fewer --graphs, a smaller --batch, or --precision int8"
        )


def _device_bytes(graphs: tuple[GraphPrediction, ...]) -> int:
    """Return the device memory of all plans together; they run one after the other, so they share activations."""
    return sum(graph.plan_bytes for graph in graphs) + max((graph.activation_bytes for graph in graphs), default=0)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
