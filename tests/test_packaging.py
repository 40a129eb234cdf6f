"""What is packed: version, types, the text of the index page, and a source distribution that is the whole project."""

import re
from importlib.metadata import version
from urllib.parse import urlsplit

import internvl_edge
from tests.project import PROJECT, PYPROJECT, ROOT

LINK = re.compile(r"(?:\]\(|^\[[^\]]+\]: )([^)\s]+)", re.MULTILINE)
"""A link in the text, or the definition of one at the end."""


def test_the_version_is_that_of_the_package_and_its_metadata() -> None:
    assert internvl_edge.__version__ == version("internvl-edge")
    assert PYPROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "internvl_edge.__version__"}


def test_the_types_ship() -> None:
    assert (ROOT / "py.typed").exists()
    assert "py.typed" in PYPROJECT["tool"]["setuptools"]["package-data"]["internvl_edge"]


def test_links_of_the_readme_hold_on_an_index_page() -> None:
    """An index shows the README alone: relative links and pictures would lead nowhere."""
    home = PROJECT["urls"]["Repository"]
    raw = home.replace("https://github.com/", "https://raw.githubusercontent.com/")
    links = LINK.findall((ROOT / "README.md").read_text())
    assert any(link.endswith("/docs/install.md") for link in links)
    lost = []
    for link in links:
        place = next((link.removeprefix(f) for f in (f"{home}/blob/main/", f"{raw}/main/") if link.startswith(f)), None)
        if place is None and urlsplit(link).scheme != "https":
            lost.append(link)
        if place is not None and not (ROOT / place.partition("#")[0]).is_file():
            lost.append(link)
    assert lost == []


def test_project_links_are_below_one_address() -> None:
    urls = PROJECT["urls"]
    assert [url for url in urls.values() if not url.startswith(urls["Repository"])] == []


def test_classifiers_name_the_pythons_that_are_allowed() -> None:
    named = {line.rpartition(" ")[2] for line in PROJECT["classifiers"] if line.count(":: 3.")}
    assert PROJECT["requires-python"] == ">=3.10"
    assert named == {"3.10", "3.11", "3.12", "3.13"}


def test_the_source_distribution_is_the_whole_project() -> None:
    lines = (ROOT / "MANIFEST.in").read_text().split("\n")
    assert {line.removeprefix("graft ") for line in lines if line.startswith("graft ")} == {
        ".ci", ".github", "benchmarks", "docs", "examples", "scripts", "tests"
    }  # fmt: skip
    assert "include CHANGELOG.md CONTRIBUTING.md Makefile constraints.txt .gitignore" in lines


def test_every_dependency_has_a_lower_bound() -> None:
    extras = {name: lines for name, lines in PROJECT["optional-dependencies"].items() if name != "dev"}
    required = [*PROJECT["dependencies"], *(line for lines in extras.values() for line in lines)]
    bounded = {re.split(r"[\[<>=; ]", line)[0] for line in required if re.search(r">=\s*\d", line)}
    assert [line for line in required if re.split(r"[\[<>=; ]", line)[0] not in bounded] == []


def test_every_extra_is_checked_or_said_not_to_be() -> None:
    text = (ROOT / "scripts" / "extra_checks.py").read_text()
    checked = set(re.findall(r'^    "(\w+)": Extra\(', text, re.MULTILINE)) - {"base"}
    unchecked = set(re.findall(r"\b[a-z]+\b", text.partition("are left out:")[2].partition('"""')[0]))
    extras = set(PROJECT["optional-dependencies"])
    assert checked <= extras
    assert extras - checked - unchecked == set()
