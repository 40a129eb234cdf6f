"""Which extra of this package brings which module, and what to say where one is not installed.

A device has the base alone, and a library that runs graphs; commands that need more say so in one line.
"""

from importlib.util import find_spec

from internvl_edge.runtime.backends.tensorrt_module import TENSORRT_MODULES

MODULES = {
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
"""Extra of pyproject.toml -> what of it our code imports."""


_ELSEWHERE = {
    "build": ", or make a kit where it is (`internvl-edge build BUNDLE --target DEVICE -o KIT`) and build that here",
}
"""What works without the extra."""


def missing_text(command: str, error: ModuleNotFoundError) -> str | None:
    """Return what to install for `command`, in one line with all that is missing of the extra.

    None for a module that no extra brings, or that is installed and lacks a part: that is a fault of the code, not of
    the installation.
    """
    for extra, modules in MODULES.items():
        missing = [module for module in modules if not _is_installed(module)]
        if any(_is_of(str(error.name), module) for module in missing):
            verb = "is" if len(missing) == 1 else "are"
            remedy = f"pip install 'internvl-edge[{extra}]'{_ELSEWHERE.get(command, '')}"
            return f"{command}: {', '.join(missing)} {verb} not installed; {remedy}"
    return None


def _is_of(name: str, module: str) -> bool:
    """Return whether `name` is `module`, lies in it, or is the package around it."""
    return f"{name}.".startswith(f"{module}.") or module.startswith(f"{name}.")


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):  # the package around it is missing; or it is loaded without a spec
        return False
