"""Every name that is taken from torch, and the version that first has it: the lower bound in pyproject.toml is true.

torch is not installed in old versions, since those bring gigabytes of CUDA; the table was made from the Python files of
2.8, 2.9 and 2.10.
"""

import ast
import re
from collections.abc import Iterator
from functools import reduce
from importlib import import_module
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).resolve().parents[3]
ROOMS = ("export", "calib", "commands", "optimum_register")
IN_2_8 = {
    "torch": (
        "Size Tensor arange autocast bfloat16 bincount bool cat device dtype empty exp2 float16 float32 "
        "float64 float8_e4m3fn from_numpy frombuffer get_default_dtype int16 int32 int64 int8 isfinite load "
        "maximum no_grad ones outer set_default_dtype softmax split stack strided tensor topk uint8 where "
        "zeros"
    ),
    "torch.export": "Dim export",
    "torch.export.Dim": "DYNAMIC",
    "torch.library": "custom_op",
    "torch.nn": "Conv2d Embedding GELU Identity LayerNorm Linear Module ModuleList Parameter Sequential",
    "torch.nn.functional": "interpolate linear pad rms_norm scaled_dot_product_attention silu",
    "torch.onnx": "ONNXProgram export",
    "torch.onnx.errors": "OnnxExporterError",
    "torch.onnx.ops": "rotary_embedding",
    "torch.overrides": "TorchFunctionMode",
    "torch._subclasses": "FakeTensorMode",
    "torch._dynamo.exc": "UserError",
}
"""Module or class -> names in it."""
BEFORE = frozenset(f"{place}.{name}" for place, names in IN_2_8.items() for name in names.split())
SINCE: dict[str, tuple[int, int]] = {}
"""Names that 2.8 does not have, and the version that does."""
OURS = ("torch.ops.internvl_edge",)
"""Operators that the package registers itself."""


def test_names_of_torch_are_there_in_the_oldest_version_that_is_allowed() -> None:
    used = {name for room in ROOMS for path in (ROOT / room).rglob("*.py") for name in _names(path)}
    assert sorted(used - BEFORE - SINCE.keys()) == [], "look up which version brought them, and add them here"
    assert max(SINCE.values(), default=(2, 8)) <= _lower_bound()


@pytest.mark.parametrize("name", sorted(BEFORE | SINCE.keys()))
def test_names_of_torch_are_there_in_this_version(name: str) -> None:
    module, *rest = _module_of(name)
    reduce(getattr, rest, import_module(module))


def _lower_bound() -> tuple[int, int]:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (found,) = (re.fullmatch(r"torch>=(\d+)\.(\d+)", line) for line in extras["export"] if line.startswith("torch"))
    assert found is not None
    return int(found[1]), int(found[2])


def _names(path: Path) -> Iterator[str]:
    """Yield the longest dotted names of torch in a file."""
    tree = ast.parse(path.read_text())
    known = dict(_imported(tree))
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name) and id(node) not in inner:
            name = _dotted(node, known)
            if (
                name is not None
                and name not in ("torch", "torch.nn", "torch.nn.functional")
                and not name.startswith(OURS)
            ):
                yield name


def _imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                if each.name.split(".")[0] == "torch":
                    yield (each.asname, each.name) if each.asname else ("torch", "torch")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            for each in node.names:
                yield each.asname or each.name, f"{node.module}.{each.name}"


def _dotted(node: ast.expr, known: dict[str, str]) -> str | None:
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute) and (before := _dotted(node.value, known)) is not None:
        return f"{before}.{node.attr}"
    return None


def _module_of(name: str) -> list[str]:
    """Split a dotted name into its longest module and the attributes in it."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        return [".".join(parts[:count]), *parts[count:]]
    raise AssertionError(name)
