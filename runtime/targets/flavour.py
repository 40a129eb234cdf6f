"""Load the TensorRT that is installed on this machine: the standard one, or TensorRT-RTX."""

import logging
from dataclasses import dataclass
from types import ModuleType

from internvl_edge.runtime.backends.cuda import Device, find_device
from internvl_edge.runtime.backends.tensorrt_module import TENSORRT_MODULES, import_tensorrt, tensorrt_version
from internvl_edge.runtime.errors import EngineError
from internvl_edge.runtime.targets.capability import Capabilities, capabilities, missing_calls
from internvl_edge.runtime.targets.data_sheet import Target

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flavour:
    """A loaded TensorRT library."""

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
        trt = import_tensorrt(name)
    except ImportError as error:
        raise EngineError(f"{name}: {error}") from error
    version = tensorrt_version(trt)
    if missing := missing_calls(trt):
        raise EngineError(
            f"{name}: {version} lacks {', '.join(missing)}; install TensorRT 10.3 or later (JetPack 6.1 or later)"
        )
    return Flavour(name=name, trt=trt, version=version, capabilities=capabilities(trt))


def found_flavours() -> tuple[Flavour, ...]:
    """Return the libraries that are installed and new enough, TensorRT-RTX first."""
    found = []
    for name in TENSORRT_MODULES:
        try:
            found.append(load_flavour(name))
        except EngineError:
            continue
    return tuple(found)


def flavour_for(target: Target) -> Flavour | None:
    """Return the installed library that builds for `target`; None if only the device itself can build.

    TensorRT-RTX builds ahead of time for its targets, the standard TensorRT for the GPU of this machine.

    Raises:
        EngineError: `target` is one of TensorRT-RTX, and no library that builds for it is installed.
    """
    found = {flavour.name: flavour for flavour in found_flavours()}
    if target.rtx and "tensorrt_rtx" in found:
        return found["tensorrt_rtx"]
    device = find_device()
    if isinstance(device, Device) and device.sm == target.sm:
        return found.get("tensorrt") or load_flavour("tensorrt")
    return load_flavour("tensorrt_rtx") if target.rtx else None


def launches_plugins(flavour: Flavour) -> bool:
    """Return whether plugins that the runtime launches can be built here: TensorRT times their kernels on the GPU."""
    if not flavour.capabilities.plugins_v3:
        return False
    device = find_device()
    if not isinstance(device, Device):
        logger.info("%s %s: no plugins through Python: %s", flavour.name, flavour.version, device)
    return isinstance(device, Device)
