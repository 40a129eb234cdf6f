"""Rooms import only to the right, cli -> commands -> export -> calib -> runtime; runtime starts with NumPy alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "runtime": {"runtime"},
    "calib": {"calib", "runtime"},
    "export": {"export", "calib", "runtime"},
    "commands": {"commands", "progress", "export", "calib", "runtime"},
}
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


def test_the_runtime_never_names_torch() -> None:
    wrong = [str(p) for p in (ROOT / "runtime").rglob("*.py") if any(n.split(".")[0] == "torch" for n in _imports(p))]
    assert wrong == []


def test_importing_the_runtime_loads_numpy_alone() -> None:
    code = "import sys, internvl_edge.runtime; print(*sorted(m for m in sys.modules if '.' not in m))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "numpy" in loaded or "internvl_edge" in loaded
    assert [name for name in HEAVY if name in loaded] == []


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom internvl_edge.cli import main\n"
        "try:\n    main(['export', '--help'])\nexcept SystemExit:\n    pass\n"
        "print(*[m for m in ('torch', 'onnx', 'onnxruntime', 'onnx_ir') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.split() == []
    assert "--target" in done.stdout
