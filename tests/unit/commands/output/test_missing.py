"""Missing modules are reported in one line, and the table names all that our code imports."""

import ast
import sys
from importlib.metadata import packages_distributions

import click
import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from internvl_edge.cli import main
from internvl_edge.commands.output.missing import MODULES, missing_text
from tests.project import PROJECT, ROOT

BASE = {"numpy", "click", "PIL", "sentencepiece", "rich"}
OF_OTHERS = {"triton_python_backend_utils"}
"""Is there only inside of NVIDIA Triton."""


def imported() -> dict[str, set[str]]:
    """Return every third party's module that our code imports, and the files that do."""
    rooms = [path for room in ("commands", "export", "calib", "runtime") for path in (ROOT / room).rglob("*.py")]
    found: dict[str, set[str]] = {}
    for path in [*rooms, ROOT / "cli.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                if (top := name.split(".")[0]) not in {"internvl_edge", *sys.stdlib_module_names}:
                    found.setdefault(top, set()).add(str(path.relative_to(ROOT)))
    return found


def test_every_module_that_we_import_is_in_the_base_or_in_the_table() -> None:
    known = BASE | OF_OTHERS | {module.split(".")[0] for modules in MODULES.values() for module in modules}
    assert {name: files for name, files in imported().items() if name not in known} == {}


@pytest.mark.parametrize("extra", sorted(MODULES))
def test_the_extra_brings_what_the_table_says(extra: str) -> None:
    brought = {canonicalize_name(Requirement(line).name) for line in PROJECT["optional-dependencies"][extra]}
    owners = packages_distributions()
    for module in MODULES[extra]:
        found = {canonicalize_name(owner) for owner in owners.get(module.split(".")[0], ())}
        if found and module not in ("triton", "markupsafe"):  # torch may bring the one, jinja2 the other
            assert found & brought, f"{module} comes from {found}, not from the extra {extra}"


@pytest.mark.parametrize("name", ["absent_onnx", "internvl_edge.export.absent", "onnx.absent", "numpy.absent"])
def test_a_mistake_in_the_code_is_no_missing_extra(name: str) -> None:
    assert missing_text("export", ModuleNotFoundError(f"No module named {name!r}", name=name)) is None


def test_all_that_is_missing_of_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("starlette", "orjson"):
        monkeypatch.setitem(sys.modules, module, None)
    error = ModuleNotFoundError("No module named 'starlette.routing'", name="starlette.routing")
    assert missing_text("serve", error) == (
        "serve: orjson, starlette are not installed; pip install 'internvl-edge[serve]'"
    )


def test_a_package_around_a_module_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google", None)
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    error = ModuleNotFoundError("No module named 'google'", name="google")
    assert missing_text("serve", error) == "serve: google.protobuf is not installed; pip install 'internvl-edge[serve]'"


@pytest.mark.parametrize(
    ("code", "known"),
    [("import onnx.shape_inference", True), ("from internvl_edge.cli import absent", False), ("import absent", False)],
)
def test_the_group_turns_only_those_into_a_line(code: str, known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "onnx.shape_inference", raising=False)

    @click.command()
    def broken() -> None:
        exec(code)

    monkeypatch.setitem(main.commands, "broken", broken)
    done = CliRunner().invoke(main, ["broken"])
    assert done.exit_code == 1
    if known:
        assert done.stderr == "Error: broken: onnx is not installed; pip install 'internvl-edge[export]'\n"
    else:
        assert isinstance(done.exception, ImportError)
