"""Rooms import only to the right, cli -> commands -> export -> calib -> runtime; runtime starts with NumPy alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import structure

from internvl_edge.commands.output.missing import MODULES
from tests.project import PYPROJECT, ROOT

ALLOWED = {
    "runtime": {"runtime"},
    "calib": {"calib", "runtime"},
    "export": {"export", "calib", "runtime"},
    "commands": {"commands", "export", "calib", "runtime"},
}
ORDER = {
    "commands": (
        *("bench", "build", "calibrate", "compare", "doctor", "eval", "export", "inspect", "package", "run"),
        *("serve", "targets", "options", "output"),
    ),
    "export": (
        "report",
        "compile",
        "quantization",
        "plans",
        "check",
        "stored",
        "numerics",
        "calibrate",
        "run",
        "engine",
        "dialects",
        "blockwise",
        "plugins",
        "checkpoint",
        "canonical",
        "models",
    ),
    "calib": (
        "evaluation",
        "report",
        "choose",
        "gate",
        "quantize",
        "measure",
        "model",
        "qdq",
        "recipes",
        "ranges",
        "data",
        "metrics",
        "sites",
        "formats",
        "heap",
    ),
    "runtime": (
        "package",
        "ray",
        "serve",
        "embed",
        "latency",
        "inspect",
        "targets",
        "model",
        "tasks",
        "backends",
        "bundle",
        "outputs",
        "inputs",
        "numbers",
        "monitor",
        "finite",
        "byte_sizes",
        "cache_folder",
        "file_copy",
        "replace_file",
        "progress",
        "stages",
        "errors",
    ),
}
"""Room -> its folders, and the files at its top: each imports itself and what stands after it."""
DATA = (".html", ".proto", ".binpb")
HEAVY = ("torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx_bindings", "PIL", "sentencepiece", "rich")


def _imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.append(node.module or "")
    return found


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_a_room_imports_only_to_its_right(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files
        for name in _imports(path)
        if name.startswith("internvl_edge.") and name.split(".")[1] not in ALLOWED[room]
    ]
    assert wrong == []


@pytest.mark.parametrize("room", sorted(ORDER))
def test_imports_go_one_way_inside_a_room(room: str) -> None:
    order = ORDER[room]
    files = [path for path in sorted((ROOT / room).rglob("*.py")) if path != ROOT / room / "__init__.py"]
    parts = {path: path.relative_to(ROOT / room).with_suffix("").parts[0] for path in files}
    assert sorted(set(parts.values())) == sorted(order), "a folder or file has no place in the order, or one is gone"
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path, part in parts.items()
        for name in _imports(path)
        if f"{name}.".startswith(f"internvl_edge.{room}.")
        and f"{name}.".split(".")[2] not in order[order.index(part) :]
    ]
    assert wrong == []


@pytest.mark.parametrize("room", sorted(ORDER))
def test_a_folder_holds_at_most_a_dozen_files(room: str) -> None:
    found = structure.crowded(structure.sources())
    assert {folder: count for folder, count in found.items() if folder.split("/")[0] == room} == {}


def test_the_runtime_names_nothing_that_only_an_exporting_machine_has() -> None:
    lacking = {module for extra in ("export", "plugins", "optimum") for module in MODULES[extra]}
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / "runtime").rglob("*.py")
        for name in _imports(path)
        if name.split(".")[0] in lacking
    ]
    assert wrong == []


def test_importing_the_runtime_loads_numpy_alone() -> None:
    code = "import sys, internvl_edge.runtime; print(*sorted(m for m in sys.modules if '.' not in m))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"numpy", "internvl_edge"} <= set(loaded)
    assert [name for name in HEAVY if name in loaded] == []


def test_everything_is_installed() -> None:
    """A folder that pyproject.toml forgets is there in a checkout and missing for users."""
    listed = PYPROJECT["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for room in ALLOWED for path in (ROOT / room).rglob("*.py")}
    assert sorted({".".join(("internvl_edge", *folder.parts)) for folder in folders} - set(listed["packages"])) == []
    data = [path for room in ALLOWED for path in (ROOT / room).rglob("*") if path.suffix in DATA]
    wanted = {
        (".".join(("internvl_edge", *_package(path).parts)), path.relative_to(ROOT / _package(path))) for path in data
    }
    given = listed["package-data"]
    lost = [str(path) for package, path in wanted if not any(path.match(glob) for glob in given.get(package, []))]
    assert lost == []


def _package(path: Path) -> Path:
    """Return the nearest folder with Python in it."""
    return next(folder for folder in path.relative_to(ROOT).parents if list((ROOT / folder).glob("*.py")))


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom internvl_edge.cli import main\n"
        "try:\n    main(['export', '--help'])\nexcept SystemExit:\n    pass\n"
        "print(*[m for m in ('torch', 'onnx', 'onnxruntime', 'onnx_ir') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.split() == []
    assert "--target" in done.stdout
