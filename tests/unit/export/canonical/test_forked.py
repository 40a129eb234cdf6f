"""Work in forked processes: every name is done, errors arrive as they were raised, and no process is left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from internvl_edge.export.canonical import forked
from internvl_edge.export.canonical.forked import Forked
from internvl_edge.runtime.errors import ExportError
from internvl_edge.runtime.progress import Advance, no_advance

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux alone")
LONG_S = 600


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forked, "_cores", lambda: 2)


@pytest.fixture
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forked, "_cores", lambda: 1)


def written(folder: Path) -> dict[str, int]:
    """Return which process did the work of each name."""
    return {file.name: int(file.read_text()) for file in folder.iterdir()}


def writes(folder: Path) -> "forked.Work":
    def work(name: str, advance: Advance) -> None:
        advance(0.25)
        (folder / name).write_text(str(os.getpid()))
        advance(0.75)

    return work


@LINUX
@pytest.mark.usefixtures("two_cores")
def test_every_name_is_done_once_in_a_process_of_two(tmp_path: Path) -> None:
    parts: list[float] = []
    with Forked(writes(tmp_path), ["a", "b", "c", "d"]) as processes:
        done = list(processes.done(parts.append))
    found = written(tmp_path)
    assert sorted(done) == sorted(found) == ["a", "b", "c", "d"]
    assert os.getpid() not in found.values()
    assert len(set(found.values())) <= 2
    assert sum(parts) == pytest.approx(4)


@LINUX
def test_four_processes_are_the_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each holds a traced graph, so that more cores are no reason for more; each begins with a name of its own."""
    monkeypatch.setattr(forked, "_cores", lambda: 16)
    with Forked(writes(tmp_path), list("abcdefgh")) as processes:
        assert len(multiprocessing.active_children()) == 4
        assert sorted(processes.done(no_advance)) == list("abcdefgh")


@pytest.mark.parametrize("names", [["a", "b"], ["a"], []])
@pytest.mark.usefixtures("one_core")
def test_on_one_core_the_work_is_done_here(tmp_path: Path, names: list[str]) -> None:
    with Forked(writes(tmp_path), names) as processes:
        assert list(processes.done(no_advance)) == names
    assert written(tmp_path) == dict.fromkeys(names, os.getpid())


@pytest.mark.usefixtures("two_cores")
def test_one_name_is_done_here(tmp_path: Path) -> None:
    with Forked(writes(tmp_path), ["a"]) as processes:
        assert list(processes.done(no_advance)) == ["a"]
    assert written(tmp_path) == {"a": os.getpid()}


@LINUX
@pytest.mark.usefixtures("two_cores")
def test_in_a_process_of_a_pool_the_work_is_done_there(tmp_path: Path) -> None:
    """The processes of a pool are daemonic, so that they may not start others."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        name, pid = pool.apply(work_of_a_pool, (tmp_path,))
    assert written(tmp_path) == {"a": pid, "b": pid}
    assert name == "a, b"


def work_of_a_pool(folder: Path) -> tuple[str, int]:
    """Return the names that were done in this process of a pool, and its id."""
    with Forked(writes(folder), ["a", "b"]) as processes:
        return ", ".join(processes.done(no_advance)), os.getpid()


@LINUX
@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("error", [ExportError("b: torch cannot trace the graph (x); report it"), OSError(28, "full")])
def test_an_error_for_the_user_is_raised_as_it_is_and_the_others_end(error: Exception) -> None:
    def work(name: str, advance: Advance) -> None:
        if name == "b":
            raise error
        time.sleep(LONG_S)

    processes = Forked(work, ["a", "b"])
    with pytest.raises(type(error)) as raised, processes:
        list(processes.done(no_advance))
    assert str(raised.value) == str(error)
    assert raised.value.__cause__ is None
    assert [child.exitcode is not None for child in processes._children] == [True, True]


@LINUX
@pytest.mark.usefixtures("two_cores")
def test_any_other_error_says_where_it_was_raised() -> None:
    class LocalError(Exception):
        """Cannot be sent to another process: its class is no name of a module."""

    def work(name: str, advance: Advance) -> None:
        raise LocalError("odd")

    with pytest.raises(RuntimeError, match="odd") as raised, Forked(work, ["a", "b"]) as processes:
        list(processes.done(no_advance))
    assert "in work" in str(raised.value.__cause__)


@LINUX
@pytest.mark.usefixtures("two_cores")
def test_a_killed_process_is_an_error_in_one_line() -> None:
    def work(name: str, advance: Advance) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    died = r"^b: the process that worked on it died; [^\n]+$"
    with pytest.raises(ExportError, match=died), Forked(work, ["b", "b"]) as processes:
        list(processes.done(no_advance))


@LINUX
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_one_that_started_it(tmp_path: Path, sent: signal.Signals) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"""
import os, sys, time
from pathlib import Path
from internvl_edge.export.canonical import forked

forked._cores = lambda: 2
def work(name, advance):
    Path({str(tmp_path)!r}, name).write_text(str(os.getpid()))
    time.sleep({LONG_S})

with forked.Forked(work, ["a", "b"]) as processes:
    list(processes.done(lambda part: None))
""")
    process = subprocess.Popen([sys.executable, str(program)], stderr=subprocess.PIPE, start_new_session=True)
    children = [int(text) for text in arrived(tmp_path, ["a", "b"])]
    os.killpg(process.pid, sent) if sent == signal.SIGINT else process.send_signal(sent)
    _, said = process.communicate(timeout=LONG_S / 5)
    assert process.returncode != 0
    until = time.monotonic() + LONG_S / 5
    while any(alive(pid) for pid in children) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in children)
    assert said.count(b"Traceback") == (1 if sent == signal.SIGINT else 0)


def arrived(folder: Path, names: list[str]) -> Iterator[str]:
    """Yield the content of files as soon as they are there."""
    until = time.monotonic() + LONG_S / 5
    for name in names:
        while not (folder / name).exists() or not (folder / name).read_text():
            assert time.monotonic() < until
            time.sleep(0.05)
        yield (folder / name).read_text()


def alive(pid: int) -> bool:
    """Return whether a process runs: one that is dead and not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
