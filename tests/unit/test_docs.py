"""Guides are whole: fences, links and anchors hold, and every option has a help text and is named in its guide."""

import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import click
import pytest

from internvl_edge.cli import main
from tests.project import ROOT
from tests.test_architecture import ORDER

PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
GUIDES = {
    "internvl-edge": ("export.md",),
    "export": ("export.md", "calibrate.md", "inputs.md", "chat.md"),
    "calibrate": ("calibrate.md", "inputs.md"),
    "eval": ("eval.md", "inputs.md"),
    "compare": ("compare.md", "inputs.md"),
    "build": ("build.md",),
    "targets": ("targets.md",),
    "doctor": ("build.md",),
    "inspect": ("inspect.md",),
    "run": ("run.md",),
    "run caption": ("run.md", "captions.md"),
    "run chat": ("run.md", "chat.md"),
    "run embed": ("run.md", "embed.md", "ray.md"),
    "bench": ("bench.md",),
    "serve": ("serve.md",),
    "package triton": ("triton.md",),
    "package ray": ("ray.md",),
}
"""Command or group -> the guides of which one has to name each option."""
_FENCE = re.compile(r"^\s*(?:[-*>]\s+|\d+\.\s+)?(`{3,}|~{3,})(.*)$")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")
_HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$")
_UNWRAPPED = re.compile(r"\s*\||#{1,6} |\[[^\]]+\]: |!\[")
"""Rows of a table, headings, targets of links and pictures each stand on one line, however long it is."""
LONGEST = 150
"""Characters of a line of prose, so that a page is read in an editor and a change is seen in a diff."""


NOW = [page for page in PAGES if page.name != "CHANGELOG.md" and page.parent.name != "reports"]
"""Pages that speak of the program as it is: what the changelog and old reports name may be gone."""
PROPOSED = {
    "export/plugins/kernels/NAME.py",
    "export/models/segmentation.py",
    "export/models/families/segmentation.py",
    "export/models/graph_modules/segment.py",
    "export/models/families/language/mistral.py",
    "runtime/tasks/segmentation.py",
    "commands/run/segment.py",
}
"""Files that architecture.md says somebody would write."""
OF_OTHERS = {
    *("--upgrade", "--no-index", "--find-links", "--python-version", "--only-binary", "--system-site-packages"),  # pip
    *("--durations", "--dist", "--no-loadscope-reorder"),  # pytest
    *("--exportTimes", "--exportProfile", "--exportLayerInfo", "--stronglyTyped"),  # trtexec
    *("--runtime", "--data-binary", "--string-data", "--model-repository"),  # docker, curl, perf_analyzer, tritonserver
    "--help",
}
"""Options of other programs that the guides show."""
GONE = {"decisions.md": {"--max-device-mem"}}
"""Page -> options of which it says why they are no more."""
_CODE = re.compile(r"(?<![\w./-])((?:[\w*]+/)*[\w*]+\.py)\b")
_FOLDER = re.compile(r"`((?:commands|export|calib|runtime|tests|benchmarks|docs|examples|scripts)(?:/[\w*-]+)*/?)`")
_MODULE = re.compile(r"(?<![\w/.])internvl_edge((?:\.\w+)+)")
_IMPORT = re.compile(r"^from (internvl_edge[\w.]*) import (.+)$", re.MULTILINE)
_OPTION = re.compile(r"(?<![\w-])--[a-zA-Z][\w-]*")


def commands(command: click.Command, *path: str) -> Iterator[tuple[str, click.Command]]:
    if command is main:
        yield "internvl-edge", main
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, *path, name)
    else:
        yield " ".join(path), command


def options(command: click.Command) -> Iterator[click.Option]:
    return (each for each in command.params if isinstance(each, click.Option) and not each.is_eager)


def name_of(option: click.Option) -> str:
    """Return the name that a finding says: the first long one."""
    return next((name for name in option.opts if name.startswith("--")), option.opts[0])


def guides_of(command: str) -> tuple[str, ...]:
    return GUIDES.get(command) or GUIDES[command.split()[0]]


def prose(page: Path) -> tuple[str, list[str]]:
    """Return the text outside of fences, and what is wrong with the fences."""
    kept, wrong, fence, opened = [], [], "", 0
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        found = _FENCE.match(line)
        if not fence and found is not None and "`" not in found[2]:
            fence, opened = found[1], number
        elif fence and found is not None and found[1].startswith(fence) and not found[2].strip():
            fence = ""
        elif fence:
            if "```" in line:
                wrong.append(f"line {number}: a fence inside of the one from line {opened}, or one that is not closed")
        else:
            if "```" in line:
                wrong.append(f"line {number}: ``` in the middle of a line opens and closes nothing")
            kept.append(line)
    return "\n".join(kept), wrong + ([f"line {opened}: a fence that is never closed"] if fence else [])


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for line in prose(page)[0].splitlines():
        if (heading := _HEADING.match(line)) is not None:
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1])
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            count = sum(1 for each in found if re.fullmatch(rf"{re.escape(slug)}(-\d+)?", each))
            found.add(f"{slug}-{count}" if count else slug)
        found |= set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", line))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_fences_are_whole(page: Path) -> None:
    wrong = prose(page)[1]
    assert wrong == [], "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for target in _LINK.findall(re.sub(r"`[^`\n]*`", "", prose(page)[0])):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (page.parent / path).resolve() if path else page
        if not file.is_relative_to(ROOT) or not file.exists():
            wrong.append(f"{target}: no such file in the repository")
        elif anchor and file.suffix == ".md" and anchor not in anchors(file):
            wrong.append(f"{target}: {file.name} has no such heading")
    assert wrong == [], "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_of_prose_are_short(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        pytest.skip("an entry of the changelog may be one line")
    wrong = [line for line in prose(page)[0].splitlines() if len(line) > LONGEST and not _UNWRAPPED.match(line)]
    assert wrong == [], "\n".join(wrong)


def test_every_command_has_a_guide() -> None:
    wrong = [name for name, _ in commands(main) if name not in GUIDES and name.split()[0] not in GUIDES]
    assert wrong == [], "name the guide of the command in GUIDES"
    assert sorted({file for files in GUIDES.values() for file in files if not (ROOT / "docs" / file).exists()}) == []


def test_every_option_has_a_help_text() -> None:
    wrong = [
        f"{command}: {name_of(option)}"
        for command, found in commands(main)
        for option in options(found)
        if not option.help
    ]
    assert wrong == [], "options without help="


def test_every_option_is_named_in_the_guide_of_its_command() -> None:
    wrong = []
    for command, found in commands(main):
        guides = guides_of(command)
        text = "\n".join((ROOT / "docs" / guide).read_text(encoding="utf-8") for guide in guides)
        for option in options(found):
            names = "|".join(re.escape(name) for name in names_of(option))
            if not re.search(rf"(?<![\w-])({names})(?![\w-])", text):
                wrong.append(f"{command} {name_of(option)}: name it in docs/{' or docs/'.join(guides)}")
    assert wrong == [], "\n".join(wrong)


@pytest.mark.parametrize("page", NOW, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_folders_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    wrong = [name for name in _CODE.findall(text) if name not in PROPOSED and not _found(name)]
    wrong += [name for name in _FOLDER.findall(text) if not any(ROOT.glob(name.rstrip("/")))]
    assert wrong == []


@pytest.mark.parametrize("room", sorted(ORDER))
def test_the_map_lists_the_folders_of_each_room_in_their_order(room: str) -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = text.partition(f"| `{room}/` | |\n")[2].partition("\n\n")[0].splitlines()[1:]
    listed = [name for row in rows for name in re.findall(r"`(\w+)(?:/|\.py)`", row.split("|")[1])]
    assert listed == list(ORDER[room])


def test_files_that_are_proposed_do_not_exist_yet() -> None:
    assert [name for name in sorted(PROPOSED) if (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", NOW, ids=lambda page: str(page.relative_to(ROOT)))
def test_modules_and_names_in_them_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    wrong = [f"internvl_edge{path}" for path in _MODULE.findall(text) if not _importable(path.split(".")[1:])]
    for module, names in _IMPORT.findall(text):
        wrong += [f"{module}: {name}" for name in names.split(", ") if not _importable([*module.split(".")[1:], name])]
    assert wrong == []


@pytest.mark.parametrize("page", NOW, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_that_are_named_exist(page: Path) -> None:
    known = {name for _, command in commands(main) for each in options(command) for name in names_of(each)}
    known |= scripts_options() | OF_OTHERS | GONE.get(page.name, set()) | {"--version"}
    assert sorted(set(_OPTION.findall(page.read_text(encoding="utf-8"))) - known) == []


@pytest.mark.parametrize("page", NOW, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_command_line_has_only_options_of_its_command(page: Path) -> None:
    wrong = [
        f"{name}: {option}"
        for line in re.findall(r"internvl-edge ([^`\n#|]+)", page.read_text(encoding="utf-8"))
        for name, command in commands(main)
        if f"{line} ".startswith(f"{name} ")
        for option in _OPTION.findall(line)
        if option not in {"--help", *(each for known in options(command) for each in names_of(known))}
    ]
    assert wrong == []


def names_of(option: click.Option) -> tuple[str, ...]:
    return (*option.opts, *option.secondary_opts)


def scripts_options() -> set[str]:
    """Return the options of the scripts, of pytest as the tests extend it, and of the plugin of optimum."""
    files = [*ROOT.glob("benchmarks/*.py"), *ROOT.glob("tests/**/conftest.py"), *ROOT.glob("optimum_register/*.py")]
    return {name for file in files for name in re.findall(r"[\"'](--[a-z][\w-]*)", file.read_text(encoding="utf-8"))}


def _found(name: str) -> bool:
    """Return whether a file is there; one without a folder may be in any."""
    return any(ROOT.glob(name)) or ("/" not in name and name in _everything())


@cache
def _everything() -> frozenset[str]:
    return frozenset(path.name for path in ROOT.rglob("*.*") if ".venv" not in path.parts)


def _importable(parts: list[str]) -> bool:
    """Return whether a path of modules and names leads somewhere; only what the path names is imported."""
    for count in range(len(parts), -1, -1):
        file = ROOT.joinpath(*parts[:count])
        if file.with_suffix(".py").is_file() or (file / "__init__.py").is_file():
            found: object = import_module(".".join(("internvl_edge", *parts[:count])))
            for name in parts[count:]:
                found = getattr(found, name, None)
            return found is not None
    return False


def test_the_check_finds_what_is_wrong(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A b: c\n\n```console\n$ ls ```\n\n```\ntext\n```sh\n", encoding="utf-8")
    assert [line.split(":")[0] for line in prose(page)[1]] == ["line 4", "line 8"]
    page.write_text("# A `b`: c\n## A b c\n### [x](y)!\n", encoding="utf-8")
    assert anchors(page) == {"a-b-c", "a-b-c-1", "x"}


def test_the_check_of_names_finds_what_is_gone() -> None:
    assert _importable(["runtime", "InternVL"])
    assert _importable(["calib", "sites", "Site"])
    assert not _importable(["runtime", "nothing"])
    assert not _importable(["nowhere", "at", "all"])
    assert _found("runtime/model.py")
    assert _found("sites.py")
    assert not _found("runtime/nothing.py")
    assert not _found("nothing.py")
