"""The TensorRT that is found here: the standard one, or TensorRT-RTX."""

import importlib
import logging
from dataclasses import dataclass
from types import ModuleType

from internvl_edge.runtime.cuda import Device, find_device
from internvl_edge.runtime.errors import EngineError
from internvl_edge.runtime.jetson import tensorrt_remedy
from internvl_edge.runtime.targets.capability import Capabilities, capabilities, missing_calls
from internvl_edge.runtime.targets.data_sheet import Target

logger = logging.getLogger(__name__)

_MODULES = {
    "tensorrt_rtx": ("onnxruntime_ep_nv_tensorrt_rtx", "tensorrt_rtx_bindings"),
    "tensorrt": ("tensorrt",),
}
"""What each flavour imports, in order; the first of TensorRT-RTX only brings the libraries that its bindings load."""

_EXTRAS = {"tensorrt_rtx": "rtx", "tensorrt": "gpu"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Flavour:
    """One library, loaded."""

    name: str
    """``tensorrt`` or ``tensorrt_rtx``."""
    trt: ModuleType
    version: str
    capabilities: Capabilities


def load_flavour(name: str) -> Flavour:
    """Return the library `name`: ``tensorrt`` or ``tensorrt_rtx``.

    Raises:
        EngineError: it is not installed, or too old to build with.
    """
    try:
        trt = [importlib.import_module(module) for module in _MODULES[name]][-1]
    except (ImportError, OSError) as error:
        raise EngineError(_not_installed(name, error)) from error
    if missing := missing_calls(trt):
        raise EngineError(
            f"{name}: {_version(trt)} lacks {', '.join(missing)}; install TensorRT 10.3 or later (JetPack 6.1 or later)"
        )
    return Flavour(name=name, trt=trt, version=_version(trt), capabilities=capabilities(trt))


def found_flavours() -> tuple[Flavour, ...]:
    """Return what is installed here and new enough, TensorRT-RTX first."""
    found = []
    for name in _MODULES:
        try:
            found.append(load_flavour(name))
        except EngineError:
            continue
    return tuple(found)


def flavour_for(target: Target) -> Flavour | None:
    """Return what builds for `target` here; None if only the device itself can.

    TensorRT-RTX builds ahead of time for its targets; the standard TensorRT for the GPU of this machine.

    Raises:
        EngineError: `target` is one of TensorRT-RTX, and nothing that builds for it is installed.
    """
    found = {flavour.name: flavour for flavour in found_flavours()}
    if target.rtx and "tensorrt_rtx" in found:
        return found["tensorrt_rtx"]
    device = find_device()
    if isinstance(device, Device) and device.sm == target.sm:
        return found.get("tensorrt") or load_flavour("tensorrt")
    return load_flavour("tensorrt_rtx") if target.rtx else None


def launches_plugins(flavour: Flavour) -> bool:
    """Return whether plugins that our runtime launches can be built here: TensorRT times them on the device."""
    if not flavour.capabilities.plugins_v3:
        return False
    device = find_device()
    if not isinstance(device, Device):
        logger.info("%s %s: no plugins through Python: %s", flavour.name, flavour.version, device)
    return isinstance(device, Device)


def _version(trt: ModuleType) -> str:
    return str(getattr(trt, "__version__", "of unknown version"))


def _not_installed(name: str, error: Exception) -> str:
    """Return what to install."""
    remedy = tensorrt_remedy() if name == "tensorrt" else f"pip install 'internvl-edge[{_EXTRAS[name]}]'"
    return f"{name}: not installed ({error}); {remedy}"
