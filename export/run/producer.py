"""Identity of the program that wrote an artefact: a digest of its code, and versions of its libraries."""

import hashlib
import platform
from importlib.metadata import version
from pathlib import Path

import internvl_edge

_PACKAGES = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime")
_ROOMS = ("calib", "export", "runtime")
"""Folders of the program that artefacts depend on; commands only parse and print."""
_COMPILED = (".pyc", ".pyo", ".so")


def producer() -> dict[str, str]:
    """Return the version of Python and of every package that shapes a graph."""
    packages = {name: version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), "internvl-edge": internvl_edge.__version__, **packages}


def code_digest() -> str:
    """Return a digest of this program's code in all of its rooms, the same wherever it is installed."""
    root = Path(internvl_edge.__file__).parent
    digest = hashlib.sha256()
    for room in _ROOMS:
        for path in sorted((root / room).rglob("*")):
            if path.is_file() and path.suffix not in _COMPILED:
                digest.update(f"{path.relative_to(root).as_posix()} {path.stat().st_size}\n".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()
