"""What made an artefact: the versions that its content depends on."""

import platform
from importlib.metadata import version

_PACKAGES = ("internvl-edge", "torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime")


def producer() -> dict[str, str]:
    """Return the version of Python and of every package that shapes a graph."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}
