"""What made an artefact: the versions that its content depends on."""

import platform
from importlib.metadata import version

from internvl_edge import __version__

_PACKAGES = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime")


def producer() -> dict[str, str]:
    """Return the version of Python and of every package that shapes a graph."""
    packages = {name: version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), "internvl-edge": __version__, **packages}
