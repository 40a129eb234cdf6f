"""What commands print and write: JSON that parses, odd names, full disks, readers that left."""

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.tolerances import HANG_S

COMMAND = [sys.executable, "-m", "internvl_edge.cli"]


def run(*args: object, **settings: Any) -> subprocess.CompletedProcess[str]:
    told = {"stdout": subprocess.PIPE, **settings}
    return subprocess.run([*COMMAND, *map(str, args)], stderr=subprocess.PIPE, text=True, timeout=HANG_S, **told)


def strictly(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def odd_pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same name in two folders, a line break, quotes, a name that is no UTF-8."""
    folder = tmp_path_factory.mktemp("pictures")
    names = ["a/x.png", "b/x.png", "two\nlines.png", "quo\"te'.png", os.fsdecode(b"caf\xe9.png"), "日本.png"]
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (70, 70), "red").save(folder / name, "png")
    return [folder / name for name in names]


def test_json_of_odd_names(demo_bundle: Path, odd_pictures: list[Path]) -> None:
    done = run("run", "retrieve", demo_bundle, *odd_pictures, "-t", 'a "gem"', "-t", "two\nlines\u2028", "--json")
    assert done.returncode == 0, done.stderr
    rows = strictly(done.stdout)
    assert [row["image"] for row in rows] == [str(path) for path in odd_pictures]
    assert all(row["scores"].keys() == {'a "gem"', "two\nlines\u2028"} for row in rows)


def test_text_of_odd_names_keeps_their_bytes(demo_bundle: Path, odd_pictures: list[Path]) -> None:
    command = [*COMMAND, "run", "retrieve", str(demo_bundle), odd_pictures[4], "-t", "gem"]
    done = subprocess.run(command, capture_output=True, timeout=HANG_S, check=True)
    assert done.stdout.splitlines()[0] == os.fsencode(odd_pictures[4])


def test_a_terminal_without_the_letters(demo_bundle: Path, odd_pictures: list[Path]) -> None:
    told = {"env": {**os.environ, "PYTHONIOENCODING": "latin-1"}, "encoding": "utf-8"}
    asked = ("run", "retrieve", demo_bundle, odd_pictures[5], "-t", "宝石")
    assert "\\u5b9d\\u77f3" in run(*asked, **told).stdout
    assert strictly(run(*asked, "--json", **told).stdout)[0]["scores"].keys() == {"宝石"}


@pytest.mark.parametrize(("command", "option"), [("classify", "-l"), ("retrieve", "-t"), ("video", "-t")])
def test_one_name_twice_is_refused(demo_bundle: Path, odd_pictures: list[Path], command: str, option: str) -> None:
    done = run("run", command, demo_bundle, odd_pictures[0], *(option, "gem") * 2, option, "b", "--json")
    assert done.returncode == 1
    assert "given more than once: 'gem'; give each one time" in done.stderr


@pytest.mark.parametrize("asked", ["targets", "targets --json", "--help", "export --help", "--version"])
def test_a_full_stdout_is_one_line(asked: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = run(*asked.split(), stdout=full)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "stdout: cannot be written (No space left on device); make room" in line


def test_a_reader_that_leaves_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        done = run("targets", "--json", stdout=closed)
    assert done.stderr == ""


def test_an_error_about_an_odd_name_is_one_line(demo_bundle: Path, tmp_path: Path) -> None:
    done = run("run", "retrieve", demo_bundle, tmp_path / "two\nlines\x1b[31m.png", "-t", "gem")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "two\\nlines\\x1b[31m.png (no such file)" in line


def test_bench_writes_to_pipes_links_and_stdout(demo_bundle: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link.html").symlink_to("page.html")
    read: list[str] = []
    thread = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()), daemon=True)
    thread.start()
    quick = ("--graphs", "text", "--tasks", "text", "--duration", 0.1, "--iterations", 1, "--backend", "onnxruntime")
    files = ("--json", "-", "--html", tmp_path / "link.html", "--trace", tmp_path / "pipe")
    done = run("bench", demo_bundle, *quick, *files)
    assert done.returncode == 0, done.stderr
    assert strictly(done.stdout)["cases"]  # the text went to stderr
    thread.join(HANG_S)
    assert strictly(read[0])["traceEvents"]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert (tmp_path / "link.html").is_symlink()
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.html", "page.html", "pipe"]


def test_inspect_and_doctor_print_json(demo_bundle: Path) -> None:
    assert strictly(run("inspect", demo_bundle, "--json").stdout)
    assert strictly(run("doctor", demo_bundle, "--target", "l4", "--json").stdout)
    assert strictly(run("targets", "--json").stdout)
