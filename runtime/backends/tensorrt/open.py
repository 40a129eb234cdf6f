"""Open the plans of a bundle that fit this device, or report why none do."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from internvl_edge.runtime.backends.cuda import Device, find_device
from internvl_edge.runtime.backends.cuda.open import open_cuda
from internvl_edge.runtime.backends.session import SessionOptions
from internvl_edge.runtime.backends.tensorrt.plans.library import load_library
from internvl_edge.runtime.backends.tensorrt.session import Machine, TensorRTSession
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.bundle.engines import ENGINE_FILE, EngineRecord, build_command, require_engines
from internvl_edge.runtime.errors import BackendError, BundleError, EdgeError, InputError


def open_tensorrt(bundle: Bundle, graph: str, options: SessionOptions, flavour: str) -> TensorRTSession:
    """Open the plans of `graph` that `flavour` (``tensorrt`` or ``tensorrt_rtx``) built for this device.

    Raises:
        BundleError: there are no plans, or they are for another device, library or bundle.
        BackendError: the library or the device is missing, or refuses a plan.
        InputError: the number of streams is below 1.
    """
    bundle.require(graph)
    if options.streams < 1:
        raise InputError(f"streams: {options.streams}; give 1 or more")
    device = _device(flavour)
    folder = _folder(bundle, flavour, device, options.target)
    library = load_library(flavour)
    written_ns = (folder / ENGINE_FILE).stat().st_mtime_ns
    record = _checked(bundle.path, folder, written_ns, flavour, library.version, device.sm)
    if graph not in record.graphs:
        raise BundleError(
            f"{folder}: has no plan of graph {graph} (it has {', '.join(record.graphs)}); "
            f"run `{build_command(bundle, record.target)}`"
        )
    machine = Machine(library=library, cuda=open_cuda(), device=device)
    return TensorRTSession(graph, bundle.manifest.graphs[graph], folder, record.graphs[graph], machine, options)


def unavailable(bundle: Bundle, flavour: str, options: SessionOptions) -> str | None:
    """Return in one line why plans of `flavour` cannot run here; None if nothing is wrong before they are opened."""
    try:
        _folder(bundle, flavour, _device(flavour), options.target)
        load_library(flavour)
        open_cuda()
    except EdgeError as error:
        return str(error)
    return None


def _device(flavour: str) -> Device:
    device = find_device()
    if not isinstance(device, Device):
        raise BackendError(f"backend {flavour}: {device}; plans run on an NVIDIA GPU, choose --backend onnxruntime")
    return device


def _folder(bundle: Bundle, flavour: str, device: Device, target: str | None) -> Path:
    """Return the folder of plans that `flavour` built for `target`, or without a target for this device.

    Raises:
        BundleError: there is none; the message names the plans that exist.
    """
    found = list(_engine_folders(bundle))
    for folder, record in found:
        fits = record.sm == device.sm if target is None else record.target == target
        if record.flavour == flavour and fits:
            return folder
    wanted = f"sm_{device.sm} ({device.name})" if target is None else target
    have = ", ".join(f"{record.target} by {record.flavour}" for _, record in found) or "none at all"
    build = build_command(bundle, target or f"sm_{device.sm}")
    raise BundleError(f"{bundle.path}: has no plans by {flavour} for {wanted} (it has {have}); run `{build}`")


def _engine_folders(bundle: Bundle) -> Iterator[tuple[Path, EngineRecord]]:
    """Yield the folders of plans whose record can be read, in order of their targets."""
    for file in sorted((bundle.path / "engines").glob(f"*/{ENGINE_FILE}")):
        try:
            yield file.parent, EngineRecord.load(file.parent)
        except BundleError:
            continue  # other targets' plans may be intact; opening this one reports what is wrong


@lru_cache(maxsize=8)
def _checked(bundle: Path, folder: Path, written_ns: int, flavour: str, version: str, sm: int) -> EngineRecord:
    """Return the record of plans after checking their files, once for all graphs."""
    return require_engines(Bundle.open(bundle, verify=False), folder, flavour=flavour, version=version, sm=sm)
