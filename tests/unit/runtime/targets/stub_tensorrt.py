"""The real Python bindings of TensorRT, of any version, on a machine without TensorRT or a GPU.

The bindings link to three libraries. Stubs of these names, whose functions return nothing, are enough to import them:
enums, signatures, docstrings and what `hasattr` finds are then the true ones. No object can be made.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.tolerances import HANG_S

_FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getNvOnnxParserVersion",
    "getBuilderPluginRegistry",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
_LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin")


class CannotInstallError(Exception):
    """There is no compiler here, or no package index."""


def install(requirement: str, folder: Path, *beside: str) -> Path:
    """Install a bindings package like ``tensorrt-cu12-bindings==10.3.0``, importable as ``tensorrt`` in `folder`.

    What stands in `beside` it, like ``numpy<2``, is found there before what this environment has.

    Raises:
        CannotInstallError: with the reason, where this machine cannot.
    """
    _pip([requirement, *beside], folder)
    (folder / "tensorrt").symlink_to(folder / "tensorrt_bindings")  # JetPack's name; plugins import it too
    major = requirement.rpartition("==")[2].partition(".")[0]
    _compile_stubs(folder / "stubs", major)
    return folder


def ask(folder: Path, code: str, *arguments: str) -> Any:
    """Run `code` beside the bindings in `folder`, in a process of its own; return its last line, read as JSON."""
    environment = os.environ | {"LD_LIBRARY_PATH": str(folder / "stubs"), "PYTHONPATH": str(folder)}
    environment.pop("TRITON_INTERPRET", None)  # other tests of this process interpret kernels; here they are compiled
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, timeout=HANG_S
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])  # TensorRT's own logger prints on stdout too


def _pip(requirements: Sequence[str], folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    command += ["--target", str(folder), *requirements]
    reported = " ".join(requirements)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S)
    except subprocess.TimeoutExpired as error:
        raise CannotInstallError(f"pip install {reported}: no answer in {HANG_S} s") from error
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["no reason given"]
        raise CannotInstallError(f"pip install {reported}: {said[-1]}")


def _compile_stubs(folder: Path, major: str) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise CannotInstallError("no C compiler for the stub libraries")
    folder.mkdir()
    source = folder / "stub.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in _FUNCTIONS))
    built = folder / f"lib{_LIBRARIES[0]}.so.{major}"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(built), str(source)], check=True, timeout=HANG_S)
    for name in _LIBRARIES[1:]:
        shutil.copyfile(built, folder / f"lib{name}.so.{major}")
