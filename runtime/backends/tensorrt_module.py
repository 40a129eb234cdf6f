"""Import the TensorRT of a flavour, with messages that say how to install it."""

import importlib
import re
from types import ModuleType

from internvl_edge.runtime.backends.jetson import tensorrt_remedy
from internvl_edge.runtime.errors import one_line

TENSORRT_MODULES = {
    "tensorrt_rtx": ("onnxruntime_ep_nv_tensorrt_rtx", "tensorrt_rtx_bindings"),
    "tensorrt": ("tensorrt",),
}
"""Modules that each flavour imports, in order. The first one of TensorRT-RTX only loads the libraries for its
bindings."""


def import_tensorrt(flavour: str) -> ModuleType:
    """Return the module of `flavour`, ``tensorrt`` or ``tensorrt_rtx``.

    Raises:
        ImportError: it is not installed or does not load. The message says what to install.
    """
    try:
        return [importlib.import_module(module) for module in TENSORRT_MODULES[flavour]][-1]
    except (ImportError, OSError) as error:
        remedy = tensorrt_remedy() if flavour == "tensorrt" else "pip install 'internvl-edge[rtx]'"
        raise ImportError(f"not installed ({one_line(error)}); {remedy}") from error


def message_line(message: str) -> str:
    """Return a message of TensorRT on one line, without the position in its source code."""
    return re.sub(r"\.? In \w+ at [^\s)]+", "", one_line(message))


def tensorrt_version(trt: ModuleType) -> str:
    """Return the version of a TensorRT module as text for messages and manifests."""
    return str(getattr(trt, "__version__", "of unknown version"))
