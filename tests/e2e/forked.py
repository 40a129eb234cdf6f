"""Runs commands in processes forked from this one, which has imported what takes each of them seconds to import.

Each line on stdin is a JSON object: the arguments, the environment, the folder to work in, the one of traced graphs,
and the files that take stdout and stderr. The answer is a line with the exit code, negative for a signal.
"""

import gc
import json
import os
import runpy
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import onnx  # noqa: F401
import onnx_ir  # noqa: F401
import onnxscript  # noqa: F401
import torch.onnx  # noqa: F401


def main() -> None:
    """Answer until stdin ends, or an empty line comes: another process may hold the other end of stdin."""
    gc.freeze()  # what is imported is shared with the children, not copied when they collect
    for line in sys.stdin:
        if not line.strip():
            return
        child = os.fork()
        if child == 0:
            _become(**json.loads(line))
            return
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(
    arguments: list[str], environment: dict[str, str], folder: str, traces: str, stdout: str, stderr: str
) -> None:
    """Run the command as ``python -m internvl_edge.cli`` does; the interpreter ends as it would there."""
    for number, place, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, stdout, os.O_WRONLY | os.O_CREAT),
        (2, stderr, os.O_WRONLY | os.O_CREAT),
    ):
        opened = os.open(place, flags)
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["internvl-edge", *arguments]
    with _shared_traces(Path(traces)) if "export" in arguments else nullcontext():
        runpy.run_module("internvl_edge.cli", run_name="__main__", alter_sys=True)


def _shared_traces(folder: Path) -> AbstractContextManager[None]:
    from tests import traces

    return traces.shared(folder)


if __name__ == "__main__":
    main()
