"""The command as a user runs it, and the demo as a user exports it."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from internvl_edge.runtime.backends import SessionOptions
from tests.exports import Exports

Run = Callable[..., "subprocess.CompletedProcess[str]"]
ONE_THREAD = SessionOptions(threads=1)
"""Two tests run side by side on two cores: more threads would wait for each other, spinning."""


@pytest.fixture(scope="session")
def run() -> Run:
    """Run ``internvl-edge`` in its own process; nothing is a terminal."""

    def call(*arguments: object, **settings: object) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "internvl_edge.cli", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, **settings)  # type: ignore[call-overload]
        done.stderr = without_stages(done.stderr)
        return done  # type: ignore[no-any-return]

    return call


def without_stages(stderr: str) -> str:
    """Return what a command says on stderr but for how far it is, which depends on how fast the machine is."""
    return re.sub(r"^\[(?:\d+:)?\d\d:\d\d\] .*\n", "", stderr, flags=re.MULTILINE)


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
