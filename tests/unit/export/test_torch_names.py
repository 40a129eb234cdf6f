"""Every name that is taken from torch is there in the oldest version that pyproject.toml allows.

torch is not installed in old versions, since those bring gigabytes of CUDA.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.project import PROJECT, ROOT

ROOMS = ("export", "calib", "commands", "optimum_register")
OURS = ("torch.ops.internvl_edge",)
"""Operators that the package registers itself."""
LISTS = ROOT / "tests" / "data" / "torch_names"
"""``2.9.txt``: the names of torch 2.9, beside the script that reads them from a wheel."""


def test_names_of_torch_are_there_in_the_oldest_version_that_is_allowed() -> None:
    known = set((LISTS / f"{_lower_bound()}.txt").read_text().split())
    used = {name: path for room in ROOMS for path in (ROOT / room).rglob("*.py") for name in _names(path)}
    assert len(used) > 40
    lost = [f"{path.relative_to(ROOT)}: {name}" for name, path in used.items() if not _is_known(name, known)]
    assert sorted(lost) == []


def test_a_name_that_came_later_is_found(tmp_path: Path) -> None:
    (tmp_path / "new.py").write_text("import torch\ntorch.cpu.get_capabilities()\ntorch.nn.Linear(1, 1).weight\n")
    known = set((LISTS / "2.9.txt").read_text().split())
    assert [name for name in _names(tmp_path / "new.py") if not _is_known(name, known)] == [
        "torch.cpu.get_capabilities"
    ]


def _is_known(name: str, known: set[str]) -> bool:
    """Return whether the last module of a dotted name has the name behind it; what that has, is not looked into."""
    parts = name.split(".")
    modules = {line.rpartition(".")[0] for line in known}
    count = next(n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in modules | {"torch"})
    return count == len(parts) or ".".join(parts[: count + 1]) in known


def _lower_bound() -> str:
    extras = PROJECT["optional-dependencies"]
    (found,) = (re.fullmatch(r"torch>=(\d+\.\d+)", line) for line in extras["export"] if line.startswith("torch"))
    assert found is not None
    return found[1]


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
