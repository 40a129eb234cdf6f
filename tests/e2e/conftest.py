"""The command as a user runs it, and the demo as a user exports it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from internvl_edge.runtime.backends import SessionOptions
from tests.e2e import forked
from tests.exports import Exports
from tests.project import ROOT

Run = Callable[..., "subprocess.CompletedProcess[str]"]
ONE_THREAD = SessionOptions(threads=1)
"""Two tests run side by side on two cores: more threads would wait for each other, spinning."""


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, exports: Exports) -> Iterator[Run]:
    """Run ``internvl-edge`` in its own process; nothing is a terminal.

    The processes are forked from one that has imported torch and ONNX, which takes seconds each time; an export takes
    graphs that were traced before.
    """
    stdout, stderr = (tmp_path_factory.mktemp("run") / name for name in ("stdout", "stderr"))
    forking = [sys.executable, "-m", forked.__name__]
    with subprocess.Popen(forking, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def call(*arguments: object, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
            words = [str(argument) for argument in arguments]
            asked = {"arguments": words, "environment": dict(os.environ), "folder": str(cwd or Path.cwd())}
            asked["traces"] = str(exports.traces)
            for place in (stdout, stderr):
                place.write_bytes(b"")
            assert process.stdin is not None
            assert process.stdout is not None
            print(json.dumps(asked | {"stdout": str(stdout), "stderr": str(stderr)}), file=process.stdin, flush=True)
            code = int(process.stdout.readline())
            said = without_stages(stderr.read_text(encoding="utf-8"))
            return subprocess.CompletedProcess(words, code, stdout.read_text(encoding="utf-8"), said)

        yield call
        assert process.stdin is not None
        print(file=process.stdin, flush=True)


def without_stages(stderr: str) -> str:
    """Return what a command says on stderr but for how far it is, which depends on how fast the machine is."""
    return re.sub(r"^\[(?:\d+:)?\d\d:\d\d\] .*\n", "", stderr, flags=re.MULTILINE)


@pytest.fixture(scope="session", autouse=True)
def traced_once(exports: Exports) -> None:
    """Exports that tests make themselves take graphs that were traced before, too."""


@pytest.fixture(scope="session")
def demo_bundle(exports: Exports, emoji: Path) -> Path:
    """The demo in fp32: what the recorded metrics were measured with."""
    return exports.bundle(emoji / "checkpoint", dtype="fp32", samples=emoji / "data" / "test.jsonl")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory, emoji: Path) -> Path:
    """The first test pictures as files."""
    import zipfile

    folder = tmp_path_factory.mktemp("pictures")
    with zipfile.ZipFile(emoji / "data" / "test.zip") as archive:
        for name in sorted(archive.namelist())[:8]:
            archive.extract(name, folder)
    return folder
