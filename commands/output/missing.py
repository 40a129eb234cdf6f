"""Modules that the extras of this package install, and the message where one of them is missing.

A device has the package without extras, and a library that runs graphs; commands that need more say so in one line.
"""

from importlib.util import find_spec

from internvl_edge.runtime.backends.tensorrt_module import TENSORRT_MODULES

MODULES = {
    "chat": ("tokenizers", "jinja2"),
    "export": ("torch", "onnx", "onnx_ir", "onnxscript", "safetensors", "huggingface_hub", "jinja2", "markupsafe"),
    "cpu": ("onnxruntime",),
    "gpu": TENSORRT_MODULES["tensorrt"],
    "rtx": TENSORRT_MODULES["tensorrt_rtx"],
    "plugins": ("triton",),
    "openvino": ("openvino",),
    "optimum": ("optimum",),
    "parquet": ("pyarrow",),
    "video": ("av",),
    "serve": (
        "uvicorn",
        "uvloop",
        "httptools",
        "orjson",
        "starlette",
        "grpc",
        "grpc_reflection",
        "google.protobuf",
        "prometheus_client",
    ),
    "tracing": ("opentelemetry",),
    "ray": ("ray",),
}
"""Extra of pyproject.toml -> modules of it that our code imports; a module of several is named with the first."""


_ALTERNATIVES = {
    "build": ", or make a kit where it is (`internvl-edge build BUNDLE --target DEVICE -o KIT`) and build that here",
}
"""Command -> what to do where its extra cannot be installed."""


def missing_text(command: str, error: ModuleNotFoundError) -> str | None:
    """Return a line with the missing modules of an extra and how to install them.

    None if no extra has the module, or if it is installed and lacks a part: then the code is wrong, not the
    installation.
    """
    for extra, modules in MODULES.items():
        missing = [module for module in modules if not _is_installed(module)]
        if any(_is_of(str(error.name), module) for module in missing):
            verb = "is" if len(missing) == 1 else "are"
            remedy = f"pip install 'internvl-edge[{extra}]'{_ALTERNATIVES.get(command, '')}"
            return f"{command}: {', '.join(missing)} {verb} not installed; {remedy}"
    return None


def _is_of(name: str, module: str) -> bool:
    """Return whether `name` is `module`, a part of it, or a package that contains it."""
    return f"{name}.".startswith(f"{module}.") or module.startswith(f"{name}.")


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):  # the package around it is missing; or it is loaded without a spec
        return False
