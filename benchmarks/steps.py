"""Run a step of a benchmark in a process of its own, so that its time and peak memory can be measured."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class StepError(Exception):
    """A step ended with an error; the message is the last line that it wrote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Time and peak memory of a step."""

    seconds: float
    peak_mib: float


def step(function: str, *arguments: object, log: Path, python: str = sys.executable) -> Cost:
    """Run ``MODULE.FUNCTION`` of this folder, with strings for arguments, in a process of its own."""
    code = "import importlib, sys; module, name = sys.argv[1].split('.')\n"
    code += "getattr(importlib.import_module(module), name)(*sys.argv[2:])"
    return measured([python, "-c", code, function, *map(str, arguments)], log)


def measured(command: Sequence[str], log: Path) -> Cost:
    """Run `command`; return its wall time and peak resident memory, from the kernel's accounting.

    A process inherits the peak of the one that starts it, so this one must stay small where memory is reported.

    Raises:
        StepError: it failed.
    """
    places = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))}
    start = time.monotonic()
    with log.open("a") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        lines = log.read_text(errors="replace").strip().splitlines()
        raise StepError(f"exit code {process.returncode}: {lines[-1] if lines else 'said nothing'}")
    return Cost(seconds=time.monotonic() - start, peak_mib=usage.ru_maxrss / 2**10)
