"""The capability table against the real bindings of each TensorRT, and the builder's calls against the table."""

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from internvl_edge.export.engine import builder
from internvl_edge.runtime.targets.capability import REQUIRED_CALLS, Capabilities, capabilities, missing_calls
from tests.unit.runtime.targets.stub_tensorrt import CannotInstallError, ask, install

ALWAYS = {
    *("strongly_typed_flag", "weight_streaming", "refit", "strip_plan", "version_compatible", "timing_cache"),
    *("bf16", "fp8", "int4"),
}
SINCE_10_9 = {"stream_reader", "tiling_optimization", "fp4", "plugins_qdp", "plugins_aot"}
SINCE_10_13 = SINCE_10_9 | {"stream_build", "parser_initializers", "runtime_config"}
ATTENTION = {"attention", "decomposable_attention"}
SINCE_11 = {"rms_norm", "rotary_embedding", "kv_cache_update", "strongly_typed_only"}
TABLE = {
    "tensorrt-cu12-bindings==10.3.0": ALWAYS | {"calibrators", "plugins_v3"},
    "tensorrt-cu12-bindings==10.6.0": ALWAYS | {"calibrators", "plugins_v3", "plugins_qdp"},
    "tensorrt-cu12-bindings==10.9.0.34": ALWAYS | {"calibrators"} | SINCE_10_9,
    "tensorrt-cu12-bindings==10.13.3.9": ALWAYS | {"calibrators"} | SINCE_10_13,
    "tensorrt-cu12-bindings==10.14.1.48.post1": ALWAYS | {"calibrators"} | SINCE_10_13 | ATTENTION,
    "tensorrt-cu13-bindings==11.4.0.106": ALWAYS | SINCE_10_13 | ATTENTION | SINCE_11,
}
RTX = (ALWAYS | SINCE_10_13 | ATTENTION | SINCE_11 | {"runtime_cache", "engine_validity"}) - {
    "plugins_qdp",
    "plugins_aot",
}

_PATH = """
import importlib, json, sys
from dataclasses import asdict
from internvl_edge.runtime.targets.capability import has_call
from internvl_edge.runtime.targets.flavour import load_flavour

def documented(trt, path):
    found = trt
    for name in path.split("."):
        found = getattr(found, name)
    return getattr(found, "__doc__", None) or ""

flavour = load_flavour("tensorrt")
trt = flavour.trt
try:
    plugin = sorted(name for name in dir(importlib.import_module("tensorrt.plugin")) if not name.startswith("_"))
except ImportError:
    plugin = []
print(json.dumps({
    "version": flavour.version,
    "capabilities": asdict(flavour.capabilities),
    "plugin": plugin,
    "documented": {path: documented(trt, path) for path in sys.argv[1:] if has_call(trt, path)},
}))
"""


@pytest.fixture(scope="module", params=TABLE)
def bindings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """A package, and what its bindings answer."""
    try:
        folder = install(request.param, tmp_path_factory.mktemp("bindings"))
    except CannotInstallError as error:
        pytest.skip(str(error))
    return request.param, ask(folder, _PATH, *(path for path, _ in builder_calls()))


def test_a_row_of_the_table(bindings: tuple[str, dict[str, Any]]) -> None:
    package, found = bindings
    assert {name for name, value in found["capabilities"].items() if value is True} == TABLE[package]
    assert package.endswith(f"=={found['version']}") or package.partition("==")[2].startswith(found["version"])


def test_what_a_table_lists(bindings: tuple[str, dict[str, Any]]) -> None:
    package, found = bindings
    row = found["capabilities"]
    assert row["compute_capabilities"] == []
    assert {"WORKSPACE", "TACTIC_DRAM", "TACTIC_SHARED_MEMORY"} <= set(row["memory_pools"])
    assert ("SAME_COMPUTE_CAPABILITY" in row["hardware_compatibility"]) == (TABLE[package] >= SINCE_10_9)


def test_plugin_decorators_are_where_the_table_says(bindings: tuple[str, dict[str, Any]]) -> None:
    _, found = bindings
    row, names = found["capabilities"], set(found["plugin"])
    assert ({"register", "impl", "autotune"} <= names) == row["plugins_qdp"]
    assert ({"aot_impl", "KernelLaunchParams"} <= names) == row["plugins_aot"]


def test_the_builder_calls_what_is_there_with_as_many_arguments_as_it_takes(
    bindings: tuple[str, dict[str, Any]],
) -> None:
    _, found = bindings
    documented, row = found["documented"], found["capabilities"]
    assert (2, 2) in _arguments(documented["Builder.build_serialized_network"])
    assert _arguments(documented["Builder.create_network"]) == [(0, 1)]
    calls = builder_calls()
    lacking = [name for name, value in row.items() if not value]
    absent = [path for path, _ in calls if path not in documented]
    assert [path for path in absent if _among(path, REQUIRED_CALLS)] == []
    assert [path for path in absent if not any(_among(path, _guards()[name]) for name in lacking)] == []
    wrong = []
    for path, given in calls:
        takes = _arguments(documented.get(path, ""))
        if given is not None and takes and not any(least <= given <= most for least, most in takes):
            wrong.append(f"{path} takes {takes} arguments, the builder gives {given}")
    assert wrong == []


def test_tensorrt_rtx_has_its_own_row() -> None:
    pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx", reason="the extra `rtx` is not installed")
    import tensorrt_rtx_bindings as trt

    row = capabilities(trt)
    assert missing_calls(trt) == ()
    assert {name for name, value in asdict(row).items() if value is True} == RTX
    assert row.compute_capabilities == (75, 80, 86, 89, 120, 121)


def test_an_empty_module_can_do_nothing_and_lacks_everything() -> None:
    row = asdict(capabilities(ModuleType("trt")))
    assert {name for name, value in row.items() if value} == {"strongly_typed_only"}
    assert missing_calls(ModuleType("trt")) == REQUIRED_CALLS


def test_every_call_of_the_builder_is_in_the_table() -> None:
    listed = (*REQUIRED_CALLS, *(path for paths in _guards().values() for path in paths))
    used = {path for path, _ in builder_calls()}
    assert {"Builder", "OnnxParser.parse_from_file", "IBuilderConfig.set_memory_pool_limit", "ITensor.shape"} <= used
    assert [path for path in used if not _among(path, listed)] == []


_CLASSES = {
    "builder": "Builder",
    "config": "IBuilderConfig",
    "error": "ParserError",
    "layer": "ILayer",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "tensor": "ITensor",
    "trt": "",
}
"""What the builder's variables hold."""


def _among(path: str, listed: Sequence[str]) -> bool:
    """Whether `path` is listed, or the class of something that is."""
    return any(other == path or other.startswith(f"{path}.") for other in listed)


def _guards() -> dict[str, tuple[str, ...]]:
    """Capability -> the calls that it stands for; those of compute capabilities are TensorRT-RTX's alone."""
    found = {answer.name: answer.metadata.get("calls", ()) for answer in fields(Capabilities)}
    rtx = ("num_compute_capabilities", "set_compute_capability")
    return found | {"compute_capabilities": ("ComputeCapability", *(f"IBuilderConfig.{name}" for name in rtx))}


def builder_calls() -> list[tuple[str, int | None]]:
    """Return what `builder.py` uses of TensorRT, like ``Builder.create_network``, and how many arguments it gives."""
    tree = ast.parse(Path(builder.__file__).read_text(encoding="utf-8"))
    calls = {id(node.func): len(node.args) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found = {
        (path, calls.get(id(node)))
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and id(node) not in inner
        for path in _paths(node)
    }
    return sorted(found, key=str)


def _paths(node: ast.Attribute) -> Iterator[str]:
    """Yield ``Builder.create_network`` for ``builder.create_network`` and ``flavour.trt.Builder.create_network``."""
    names = ast.unparse(node).split(".")
    if "trt" in names[:2]:
        names = names[names.index("trt") :]
    if names[0] in _CLASSES and all(name.isidentifier() for name in names):
        path = ".".join(filter(None, (_CLASSES[names[0]], *names[1:])))
        if path and not path.endswith("__") and not path.startswith("ILayer.attention"):  # a downcast, listed apart
            yield path


def _arguments(docstring: str) -> list[tuple[int, int]]:
    """Return how few and how many arguments each overload of a method takes; none if `docstring` shows no method.

    Overloads are lines such as ``1. name(self: T, flags: int = 0) -> R``.
    """
    found = []
    for match in re.finditer(r"^(?:\d+\. )?\w+\(self: [\w.]+(?:, (?P<rest>.*))?\) ->", docstring, re.MULTILINE):
        rest = re.sub(r"\[[^][]*\]", "", match["rest"] or "")
        listed = [argument for argument in rest.split(", ") if argument]
        found.append((sum(" = " not in argument for argument in listed), len(listed)))
    return found
