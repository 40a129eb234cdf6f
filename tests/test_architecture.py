"""Rooms import only to the right, cli -> commands -> export -> calib -> runtime; runtime starts with NumPy alone."""

import ast
import subprocess
import sys
from collections.abc import Iterator
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
        "export_report",
        "compile",
        "quantization",
        "plans",
        "check",
        "store_graphs",
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
        "measure_ranges",
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
TESTED_THROUGH: dict[str, str] = {
    "export/check/block_runners.py": (
        "tests/e2e/test_compare.py: its runners need the graphs of a bundle and the checkpoint"
    ),
    "export/check/verification_stage.py": (
        "tests/e2e/test_overflow.py: a stage of an export, with graphs that overflow and graphs that differ"
    ),
    "export/checkpoint/adapters.py": (
        "tests/unit/export/checkpoint/test_adapters.py: an adapter is opened with its checkpoint"
    ),
    "export/checkpoint/config/config_tables.py": (
        "tests/unit/export/checkpoint/config/test_config_json.py: a table, asserted by what reads it"
    ),
    "export/checkpoint/files/weight_files.py": (
        "tests/unit/export/checkpoint/files/test_weight_files.py: which files hold weights is asked by open_checkpoint"
    ),
    "export/checkpoint/shapes.py": "tests/unit/export/checkpoint/test_opening.py: weights without a config are opened",
    "export/models/families/language/fields.py": (
        "tests/unit/export/models/families/language/test_language_families.py: its fields are part of a config"
    ),
    "export/models/families/rope.py": "tests/unit/export/models/families/test_rope.py: its fields are part of a config",
    "export/models/graph_modules/connector.py": (
        "tests/parity/test_torch_golden.py: against recorded outputs, by its row of the table of graphs"
    ),
    "export/models/graph_modules/decoder.py": (
        "tests/parity/test_torch_golden.py: against recorded outputs, by its row of the table of graphs"
    ),
    "export/models/graph_modules/itm.py": (
        "tests/parity/test_torch_golden.py: against recorded outputs, by its row of the table of graphs"
    ),
    "export/models/graph_modules/query.py": (
        "tests/parity/test_torch_golden.py: against recorded outputs, by its row of the table of graphs"
    ),
    "export/models/graph_modules/text.py": (
        "tests/parity/test_torch_golden.py: against recorded outputs, by its row of the table of graphs"
    ),
    "export/models/graph_modules/vision.py": (
        "tests/parity/test_torch_golden.py: against recorded outputs, by its row of the table of graphs"
    ),
    "export/models/pool.py": "tests/parity/test_torch_golden.py: against recorded embeddings, which it makes",
    "export/plugins/functions.py": (
        "tests/unit/export/dialects/test_plugin_attention.py: outputs are those of the pattern it stands for"
    ),
    "export/plugins/kernels/codes.py": (
        "tests/parity/plugins/test_vit_attention.py: Triton functions run inside of a kernel only"
    ),
    "export/plugins/kernels/tiles.py": (
        "tests/parity/plugins/test_vit_attention.py: Triton functions run inside of a kernel only"
    ),
    "export/plugins/tiling/tiles_table.py": (
        "tests/unit/export/plugins/test_families.py: a generated table, asserted by what reads it"
    ),
    "export/store_graphs.py": "tests/e2e/test_internvl_c_bundle.py: a stage of an export",
    "runtime/backends/layer_times/openvino.py": (
        "tests/unit/runtime/backends/layer_times/test_layer_info.py: it reads objects that"
        " only OpenVINO's sessions give"
    ),
    "runtime/package/graphs.py": (
        "tests/unit/runtime/package/test_package.py: `write_repository` is its"
        " one caller, and all that it writes is read there"
    ),
    "runtime/package/warm_up.py": (
        "tests/unit/runtime/package/test_package.py: what it writes is a part of each model's configuration"
    ),
}
"""Source file that no test imports -> the test file that asserts its behaviour, and why not directly."""
DATA = (".html", ".json", ".proto", ".binpb")


def _imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.append(node.module or "")
    return found


def _imports_and_names(path: Path) -> Iterator[str]:
    """Yield the modules that `path` imports, and what it takes from them: a module too, maybe."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _module(path: str) -> str:
    return f"internvl_edge.{path.removesuffix('.py').replace('/', '.')}"


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_a_room_imports_only_to_its_right(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files
        for name in _imports_and_names(path)
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


def test_no_folder_imports_itself_through_another() -> None:
    """Between the sub-folders and files of every folder, at any depth, imports go one way."""
    assert structure.nested_circles(structure.sources()) == []


def test_a_circle_is_found_at_every_depth_and_through_the_file_of_a_package() -> None:
    files = {
        "calib/a/x.py": "from internvl_edge.calib.b import y",
        "calib/b/y.py": "import internvl_edge.calib.a.z",
        "calib/a/z.py": "",
        "runtime/c/__init__.py": "def later():\n    from internvl_edge.runtime.c.d import given",
        "runtime/c/d.py": "from internvl_edge.runtime.c import later",
        "runtime/e.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import internvl_edge.runtime.f",
        "runtime/f.py": "import internvl_edge.runtime.e",
    }
    found = structure.nested_circles([structure.Source(Path(name), ast.parse(text)) for name, text in files.items()])
    assert found == [["calib/a", "calib/b"], ["runtime/c/__init__", "runtime/c/d"]]


def test_no_function_outside_of_kernels_is_longer_than_a_page() -> None:
    assert structure.long_functions(structure.sources()) == []


@pytest.mark.parametrize("room", sorted(ORDER))
def test_a_folder_holds_at_most_a_dozen_files(room: str) -> None:
    found = structure.crowded(structure.sources())
    assert {folder: count for folder, count in found.items() if folder.split("/")[0] == room} == {}


def test_the_runtime_names_nothing_that_only_an_exporting_machine_has() -> None:
    lacking = {module for extra in ("export", "plugins", "optimum") for module in MODULES[extra]} - {*MODULES["chat"]}
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / "runtime").rglob("*.py")
        for name in _imports(path)
        if name.split(".")[0] in lacking
    ]
    assert wrong == []


def test_every_source_file_is_imported_by_a_test_or_tested_through_another() -> None:
    """Tests that skip without a GPU do not count."""
    tests = [path for path in (ROOT / "tests").rglob("*.py") if not path.is_relative_to(ROOT / "tests" / "gpu")]
    imported = {name for path in tests for name in _imports_and_names(path)}
    sources = [path for room in ALLOWED for path in (ROOT / room).rglob("*.py") if path.name != "__init__.py"]
    assert sources
    lonely = {name for path in sources if _module(name := path.relative_to(ROOT).as_posix()) not in imported}
    assert sorted(lonely - TESTED_THROUGH.keys()) == [], "write a test beside it, or name the one that asserts it"
    assert sorted(TESTED_THROUGH.keys() - lonely) == [], "gone, or imported by a test"
    named = {reason.split(": ")[0] for reason in TESTED_THROUGH.values()}
    assert sorted(name for name in named if not (ROOT / name).is_file()) == []


def test_importing_the_runtime_loads_numpy_alone() -> None:
    loaded = _loaded("internvl_edge.runtime")
    assert "numpy" in loaded
    assert loaded - _loaded("numpy") - sys.stdlib_module_names == {"internvl_edge"}


def _loaded(module: str) -> set[str]:
    """Return the packages that are loaded once `module` is imported."""
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


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
