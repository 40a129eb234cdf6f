"""Share of small faults that the tests near a file find: `python benchmarks/mutants.py --out mutants.jsonl`.

Faults are made by the operators of Cosmic Ray (`pip install cosmic-ray`): another comparison, another arithmetic
operator, a number off by one, `and` for `or`, a loop that never runs. Places are drawn with a seed, uniformly over all
places of the rooms below where an operator applies, and at each place one operator. Each fault is made in a copy of
the project, where the tests near the file run; it is caught if one fails or does not end in time. Faults that no
test can find are left out: in annotations, and in the arguments `strict`, `slots`, `frozen` and `kw_only`.

A run that was stopped continues where it was: faults in the file given by --out are not made again.
"""

import ast
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from queue import SimpleQueue

import click
from cosmic_ray.ast import get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("calib", "export/canonical", "export/checkpoint", "runtime/tasks")
"""Folders whose faults give wrong results: ranges and codes, passes, weights, and the tasks with generation."""
SERVER = multiprocessing.get_context("forkserver")
LOADED = ("onnx", "onnx_ir", "onnxruntime", "onnxscript", "torch", "transformers")
"""Modules that most tests import and that take seconds to load; they are loaded once, and each run is a fork."""
NEAR = ("tests/unit/", "tests/parity/")
"""Folders of the tests that need no whole bundle."""
SILENT = frozenset(("strict", "slots", "frozen", "kw_only"))
"""Arguments that do not change the result of a correct program."""
MEMORY_BYTES = 12 << 30
"""Bytes that a run may allocate: a fault may make a list without end."""
SECONDS = 900
"""Seconds after which a run of the near tests counts as endless; on an idle machine a tenth suffices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One change of one file."""

    file: str
    line: int
    column: int
    operator: str
    occurrence: int
    """Index of the place among all places of this operator in the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Outcome of the near tests for one fault."""

    fault: Fault
    result: str
    """`failed`, `endless`, `passed`, or `no tests` where none is near."""
    tests: int
    """Number of test files that are near."""
    change: str
    """Source line after the change."""

    @property
    def caught(self) -> bool:
        """Whether a test failed, or did not end."""
        return self.result in ("failed", "endless")


def operators() -> list[str]:
    """Return the names of the operators, without those that need arguments of their own and the one that takes away
    decorators, whose faults every import notices.
    """
    return sorted(name for name in operator_names() if "/Variable" not in name and "Decorator" not in name)


def faults(file: Path) -> Iterator[Fault]:
    """Yield every fault that can be made in `file`."""
    source = file.read_text(encoding="utf-8")
    hidden = _hidden(ast.parse(source))
    nodes = list(_nodes(get_ast(source)))
    for name in operators():
        positions = get_operator(name)().mutation_positions
        places = (place for node in nodes for place in positions(node))
        for occurrence, (start, _) in enumerate(places):
            if not any(first <= start < last for first, last in hidden):
                where = file.relative_to(ROOT).as_posix()
                yield Fault(file=where, line=start[0], column=start[1], operator=name, occurrence=occurrence)


def drawn(count: int, seed: int) -> list[Fault]:
    """Return `count` faults, the same for the same source and `seed`."""
    by_place: dict[tuple[str, int, int], list[Fault]] = {}
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            for fault in faults(file):
                by_place.setdefault((fault.file, fault.line, fault.column), []).append(fault)
    rng = random.Random(seed)
    places = sorted(by_place)
    rng.shuffle(places)
    chosen = (rng.choice(by_place[place]) for place in places)
    return list(islice(filter(_compiles, chosen), count))


def mutated(fault: Fault, tree: Path = ROOT) -> str:
    """Return the file of `fault` with it."""
    source = (tree / fault.file).read_text(encoding="utf-8")
    return str(mutate_code(source, get_operator(fault.operator)(), fault.occurrence))


def _compiles(fault: Fault) -> bool:
    """Return whether the fault leaves a program: of ``**options`` the operators make what is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(mutated(fault), fault.file, "exec")
    except SyntaxError:
        return False
    return True


def near_tests(file: str) -> list[str]:
    """Return the test files that import `file`, and the one that stands where it stands; if there are none, those that
    import what imports it, and so on.
    """
    modules, seen = {_module(file)}, set[str]()
    own = Path("tests", "unit", file)
    own = own.with_name(f"test_{own.name}")
    standing = [own.as_posix()] if (ROOT / own).exists() else []
    while modules:
        if tests := sorted({*standing, *_importers(modules, "tests")}):
            return tests
        seen |= modules
        modules = {
            _module(path) for room in ("export", "calib", "runtime") for path in _importers(modules, room)
        } - seen
    return []


def outcome(fault: Fault, tree: Path) -> Outcome:
    """Return the outcome of the near tests for `fault`, which is made in the copy `tree` and reverted afterwards."""
    tests = near_tests(fault.file)
    _check_sound(tuple(tests), tree)
    path = tree / fault.file
    source = path.read_text(encoding="utf-8")
    changed = mutated(fault, tree)
    path.write_text(changed, encoding="utf-8")
    try:
        result = _result(tests, tree) if tests else "no tests"
    finally:
        path.write_text(source, encoding="utf-8")
    line = changed.splitlines()[fault.line - 1].strip()
    return Outcome(fault=fault, result=result, tests=len(tests), change=line)


@click.command()
@click.option("--count", default=200, show_default=True, help="Number of faults to make.")
@click.option("--seed", default=17, show_default=True, help="Seed of the random choice.")
@click.option("--jobs", default=2, show_default=True, help="Number of faults that are tried at the same time.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="File for the outcomes, one line of JSON each."
)
def main(count: int, seed: int, jobs: int, out: Path) -> None:
    """Print a Markdown table of folders, and the faults that no near test finds."""
    chosen = drawn(count, seed)
    done = {entry.fault: entry for entry in _read(out)}
    waiting = [fault for fault in chosen if fault not in done]
    SERVER.set_forkserver_preload(list(LOADED))
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, out.open("a", encoding="utf-8") as lines:
        trees: SimpleQueue[Path] = SimpleQueue()
        for number in range(jobs):
            trees.put(_copied(Path(folder) / str(number)))

        def tried(fault: Fault) -> Outcome:
            tree = trees.get()
            try:
                return outcome(fault, tree)
            finally:
                trees.put(tree)

        with ThreadPoolExecutor(jobs) as pool:
            for entry in pool.map(tried, waiting):
                done[entry.fault] = entry
                lines.write(json.dumps(asdict(entry)) + "\n")
                lines.flush()
                click.echo(f"{len(done)} of {len(chosen)}: {entry.result}: {entry.fault.file}", err=True)
    _print([done[fault] for fault in chosen])


def _print(entries: list[Outcome]) -> None:
    made = Counter(_folder(entry) for entry in entries)
    caught = Counter(_folder(entry) for entry in entries if entry.caught)
    click.echo("| folder | faults | caught | share |\n| --- | ---: | ---: | ---: |")
    for folder in FOLDERS:
        click.echo(f"| `{folder}` | {made[folder]} | {caught[folder]} | {caught[folder] / max(made[folder], 1):.0%} |")
    total, found = len(entries), sum(caught.values())
    click.echo(f"| all | {total} | {found} | {found / max(total, 1):.0%} |\n")
    for entry in entries:
        if not entry.caught:
            fault = entry.fault
            click.echo(f"{entry.result}, {entry.tests} test files: {fault.file}:{fault.line}:{fault.column}")
            click.echo(f"  {fault.operator.removeprefix('core/')}: {entry.change}")


def _folder(entry: Outcome) -> str:
    return next(folder for folder in FOLDERS if entry.fault.file.startswith(f"{folder}/"))


def _read(out: Path) -> Iterator[Outcome]:
    for line in out.read_text(encoding="utf-8").splitlines() if out.exists() else ():
        content = json.loads(line)
        yield Outcome(**content | {"fault": Fault(**content["fault"])})


def _copied(tree: Path) -> Path:
    """Copy all files but those that git ignores, and let their tests import the copy."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(lambda name: (ROOT / name).exists(), listed.splitlines()):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tree / name, follow_symlinks=False)
    (tree / ".import").mkdir()
    (tree / ".import" / "internvl_edge").symlink_to(tree)
    return tree


@cache
def _check_sound(tests: tuple[str, ...], tree: Path) -> None:
    """Check that the tests pass without a fault, since a failing test would seem to catch every fault."""
    if tests and _result(tests, tree) != "passed":
        raise click.ClickException(f"{' '.join(tests)}: fail as they are; repair them first")


def _result(tests: Sequence[str], tree: Path) -> str:
    process = SERVER.Process(target=_run, args=(tests, tree))
    process.start()
    process.join(SECONDS)
    if process.exitcode is None:
        os.killpg(int(process.pid or 0), signal.SIGKILL)
        process.join()
        return "endless"
    return "failed" if process.exitcode else "passed"


def _run(tests: Sequence[str], tree: Path) -> None:
    """Run tests on the copy `tree` in a process that has loaded the large libraries already."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    os.chdir(tree)
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nothing, stream)
    sys.path.insert(0, str(tree / ".import"))
    os.environ |= {"PYTHONPATH": str(tree / ".import"), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    import pytest

    class ShortFirst:
        @pytest.hookimpl(wrapper=True)
        def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Iterator[None]:
            yield
            items.reverse()  # tests/conftest.py puts the longest first; here the first failure ends the run

    loaded = "ignore::pytest.PytestAssertRewriteWarning"  # a plugin came with a library, before pytest
    os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-W", loaded, *tests], plugins=[ShortFirst()]))


def _module(file: str) -> str:
    name = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return f"internvl_edge.{name}"


def _importers(modules: set[str], room: str) -> list[str]:
    """Return the files of `room` that import one of `modules`; of tests only those that take no whole bundles."""
    found = []
    for path in sorted((ROOT / room).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if room == "tests" and not (name.startswith(NEAR) and path.name.startswith("test_")):
            continue
        if modules & _imports(path):
            found.append(name)
    return found


@cache
def _imports(path: Path) -> frozenset[str]:
    return frozenset(_imported(ast.parse(path.read_text(encoding="utf-8"))))


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _nodes(node: object) -> Iterator[object]:
    """Yield the nodes in the order in which Cosmic Ray counts places."""
    yield node
    for child in getattr(node, "children", ()):
        yield from _nodes(child)


def _hidden(tree: ast.Module) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return the first and the last place of code whose faults no test can find."""
    parts: list[ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            parts.append(node.annotation)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns is not None:
            parts.append(node.returns)
        elif isinstance(node, ast.keyword) and node.arg in SILENT:
            parts.append(node.value)
    return [
        ((part.lineno, part.col_offset), (part.end_lineno or part.lineno, part.end_col_offset or 0)) for part in parts
    ]


if __name__ == "__main__":
    main()
