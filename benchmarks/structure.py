"""Measures of the layout of the source: `python benchmarks/structure.py`.

It reads the source with Python's own parser and runs none of it. Inside a folder, its sub-folders are taken as one unit
each, and so are the files at its top; an import counts wherever it stands in a file, those for type checking left out.
"""

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("commands", "export", "calib", "runtime")
"""Rooms in order: each may import those after it."""
PACKAGE = "internvl_edge"
FILES_AT_MOST = 12
LINES_AT_MOST = 80
KERNELS = "export/plugins/kernels"
"""Folders of Triton kernels, which are long because a kernel is one function."""
GRAPHS = frozenset(("vision", "query", "text", "decoder", "itm", "connector", "llm", "embed_tokens"))


@dataclass(frozen=True, slots=True)
class Source:
    """One parsed file."""

    path: Path
    """Path relative to the root."""
    tree: ast.Module

    @property
    def folder(self) -> str:
        """Folder of the file."""
        return self.path.parent.as_posix()


def sources() -> list[Source]:
    """Return every Python file of the rooms."""
    files = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
    return [Source(path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))) for path in files]


def crowded(files: list[Source]) -> dict[str, int]:
    """Return the folders with more files than `FILES_AT_MOST`, each with their number; `__init__.py` is not counted."""
    counts = Counter(file.folder for file in files if file.path.name != "__init__.py")
    return {folder: count for folder, count in counts.most_common() if count > FILES_AT_MOST}


def long_functions(files: list[Source]) -> list[tuple[str, int]]:
    """Return name and number of lines of the functions longer than `LINES_AT_MOST`, kernels left out."""
    found = [
        (f"{file.path}:{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1)
        for file in files
        if not file.folder.startswith(KERNELS)
        for node in ast.walk(file.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return sorted((entry for entry in found if entry[1] > LINES_AT_MOST), key=lambda entry: -entry[1])


def naming_graphs(files: list[Source]) -> list[str]:
    """Return the files that compare something with the name of a graph, by ``==``, ``in`` or ``match``."""
    return [str(file.path) for file in files if any(_names_graph(node) for node in ast.walk(file.tree))]


def arrows(files: list[Source], depth: int = 2) -> dict[tuple[str, str], set[Path]]:
    """Return every import between two units, with the files that make it.

    A unit is a path of at most `depth` parts: with 2, a folder or file of a room; with 3, one of such a folder. A
    package's own `__init__.py` is a file of its folder, which an import of a name from the package reads.
    """
    known = {file.path.with_suffix("").as_posix() for file in files}
    found: dict[tuple[str, str], set[Path]] = defaultdict(set)
    for file in files:
        here = _unit(file.path.with_suffix("").parts, depth)
        for name in _imported(file.tree):
            parts = name.split(".")[1:]
            while parts and "/".join(parts) not in known and "/".join([*parts, "__init__"]) not in known:
                parts.pop()
            if parts and "/".join(parts) not in known:
                parts.append("__init__")
            there = _unit(parts, depth)
            if parts and here != there:
                found[here, there].add(file.path)
    return dict(found)


def upward(found: dict[tuple[str, str], set[Path]]) -> list[tuple[str, str]]:
    """Return the arrows from a room to one on its left."""
    rank = {room: index for index, room in enumerate(ROOMS)}
    return sorted((here, there) for here, there in found if rank[here.split("/")[0]] > rank[there.split("/")[0]])


def circles(found: dict[tuple[str, str], set[Path]]) -> list[list[str]]:
    """Return the groups of units that reach each other by imports."""
    after: dict[str, set[str]] = defaultdict(set)
    for here, there in found:
        after[here].add(there)
    reach = {unit: _reached(unit, after) for unit in list(after)}
    groups = {
        tuple(sorted(other for other in reach[unit] if unit in reach.get(other, ())))
        for unit in reach
        if unit in reach[unit]
    }
    return sorted(map(list, groups))


def nested_circles(files: list[Source]) -> list[list[str]]:
    """Return the circles between the units of every folder, at every depth."""
    deepest = max(len(file.path.parts) for file in files)
    return [group for depth in range(2, deepest + 1) for group in circles(arrows(files, depth))]


def _reached(start: str, after: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = list(after[start])
    while waiting:
        unit = waiting.pop()
        if unit not in seen:
            seen.add(unit)
            waiting += after.get(unit, ())
    return seen


def _unit(parts: Sequence[str], depth: int) -> str:
    """Return the unit of a module: the folder or file that its first `depth` parts name."""
    return "/".join(parts[:depth])


def _imported(tree: ast.Module) -> Iterator[str]:
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(f"{PACKAGE}."):
            for alias in node.names:
                yield f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith(PACKAGE + "."))


def _names_graph(node: ast.AST) -> bool:
    if isinstance(node, ast.Compare):
        return any(_holds_name(part) for part in (node.left, *node.comparators))
    return isinstance(node, ast.MatchValue) and _holds_name(node.value)


def _holds_name(node: ast.expr) -> bool:
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return any(_holds_name(element) for element in node.elts)
    return isinstance(node, ast.Constant) and node.value in GRAPHS


@click.command()
@click.option("--all", "everything", is_flag=True, help="Name every file and import that counts.")
def main(everything: bool) -> None:
    """Print the table."""
    files = sources()
    found = arrows(files)
    rows = {
        f"folders with more than {FILES_AT_MOST} files": [
            f"{name} ({count})" for name, count in crowded(files).items()
        ],
        "files that compare with a graph's name": naming_graphs(files),
        f"functions above {LINES_AT_MOST} lines": [f"{name} ({lines})" for name, lines in long_functions(files)],
        "imports from a room to one on its left": [f"{here} -> {there}" for here, there in upward(found)],
        "circles of folders": [" ".join(group) for group in nested_circles(files)],
    }
    click.echo(f"| {len(files)} files | number | which |\n| --- | --- | --- |")
    for title, entries in rows.items():
        shown = entries if everything else entries[:4]
        more = f" and {len(entries) - len(shown)} more" if len(entries) > len(shown) else ""
        click.echo(f"| {title} | {len(entries)} | {', '.join(shown)}{more} |")


if __name__ == "__main__":
    main()
