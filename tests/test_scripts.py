"""Scripts and checks that no test runs call what exists: names that they import, and keywords that they give."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.project import ROOT

SCRIPTS = [path for folder in ("benchmarks", "scripts", "tests/gpu") for path in sorted((ROOT / folder).glob("*.py"))]
Definition = ast.FunctionDef | ast.ClassDef


def ours(tree: ast.Module) -> Iterator[tuple[Path, ast.alias]]:
    """Yield the file or folder of the project that each import takes a name from, with that name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            root, _, rest = node.module.partition(".")
            place = {"internvl_edge": ROOT, "tests": ROOT / "tests"}.get(root)
            if place is not None:
                yield from ((place / rest.replace(".", "/"), alias) for alias in node.names)


@cache
def defined(place: Path) -> dict[str, Definition | None]:
    """Return what the module at `place` defines: functions and classes by name, and other names without content."""
    file = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"
    found: dict[str, Definition | None] = {path.stem: None for path in place.glob("*")}
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if file.is_file() else ():
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.setdefault(node.id, None)
        elif isinstance(node, ast.alias):
            found.setdefault((node.asname or node.name).partition(".")[0], None)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
    return found


def keywords(definition: Definition | None) -> set[str] | None:
    """Return the keywords of a function, or the fields of a dataclass without a base; None: they are not known."""
    if isinstance(definition, ast.FunctionDef) and definition.args.kwarg is None:
        return {each.arg for each in (*definition.args.args, *definition.args.kwonlyargs)}
    if isinstance(definition, ast.ClassDef) and definition.decorator_list and not definition.bases:
        fields = [node.target for node in definition.body if isinstance(node, ast.AnnAssign)]
        return {target.id for target in fields if isinstance(target, ast.Name)}
    return None


def findings(tree: ast.Module) -> Iterator[str]:
    known: dict[str, set[str] | None] = {}
    for place, alias in ours(tree):
        if alias.name not in defined(place):
            yield f"{place.relative_to(ROOT)} has no {alias.name}"
        known[alias.asname or alias.name] = keywords(defined(place).get(alias.name))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            allowed = known.get(node.func.id)
            for keyword in node.keywords:
                if allowed is not None and keyword.arg is not None and keyword.arg not in allowed:
                    yield f"line {node.lineno}: {node.func.id} takes no {keyword.arg}"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_script_imports_and_gives_exists(script: Path) -> None:
    assert list(findings(ast.parse(script.read_text(encoding="utf-8")))) == []


def test_the_check_finds_what_is_gone() -> None:
    module = "internvl_edge.export.plugins.plugin_or_pattern"
    text = f"from {module} import Call, gone\nCall(plugin='p', types={{}}, told={{}}, sizes={{}})"
    assert list(findings(ast.parse(text))) == [
        "export/plugins/plugin_or_pattern has no gone",
        "line 2: Call takes no told",
    ]
