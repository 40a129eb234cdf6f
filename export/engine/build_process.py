"""Build one plan in a separate process, so that its memory is freed and a crash of the library is an error.

The peak memory of that process, which Linux reports as VmHWM, is the memory of the build.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from internvl_edge.runtime.bundle.engines import Profile, plugins_of, profile_of
from internvl_edge.runtime.errors import EngineError

_PR_SET_PDEATHSIG = 1
"""Option of prctl: the signal that this process gets when its parent dies."""


class BuilderMemoryError(EngineError):
    """The build ran out of memory of the machine or of the device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Inputs of the build of one plan."""

    onnx_file: Path
    plan_file: Path
    flavour: str
    target: str
    profiles: Sequence[Profile]
    workspace_bytes: int | None = None
    """Most scratch memory for kernels; None leaves the library's default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """Result of the build of one plan."""

    bytes: int
    sha256: str
    version: str
    seconds: float
    peak_bytes: int
    plugins: tuple[tuple[str, str], ...] = ()
    """Name and version of each plugin that must be registered before the plan is opened."""


def build_in_process(job: Job) -> Built:
    """Build the plan of `job` in a separate process.

    Raises:
        BuilderMemoryError: memory ran out, or the process was killed.
        EngineError: the library refuses the graph, or crashes.
        OSError: the plan cannot be written.
    """
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "internvl_edge.export.engine.build_process", str(writing)]
    try:
        with os.fdopen(reading, "rb") as answer:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, pass_fds=[writing]
            )
            os.close(writing)
            writing = -1
            _, said = process.communicate(json.dumps(_to_json(job)).encode())
            content = answer.read()
    finally:
        if writing >= 0:
            os.close(writing)
    if process.returncode != 0 or not content:
        raise _crash(job, process.returncode, said.decode(errors="replace"))
    return _result(json.loads(content))


def main() -> None:
    """Read a job from stdin, build its plan, and write the result to the file descriptor in ``argv``."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    job = _from_json(json.loads(sys.stdin.read()))
    with os.fdopen(int(sys.argv[1]), "wb") as answer:
        answer.write(json.dumps(_outcome(job)).encode())


def _outcome(job: Job) -> dict[str, Any]:
    from internvl_edge.export.engine.builder import build_plan
    from internvl_edge.export.engine.tensorrt_messages import is_out_of_memory
    from internvl_edge.runtime.targets.targets import find_target

    try:
        info = build_plan(
            job.onnx_file,
            job.plan_file,
            target=find_target(job.target),
            profiles=job.profiles,
            flavour=job.flavour,
            workspace_bytes=job.workspace_bytes,
        )
    except EngineError as error:
        return {"error": str(error), "memory": is_out_of_memory(str(error))}
    except MemoryError:
        return {"error": f"{job.onnx_file.name}: no memory left while building", "memory": True}
    except OSError as error:
        return {"os_error": [error.errno, error.strerror, str(error.filename or job.plan_file)]}
    return {
        "bytes": info.bytes,
        "sha256": info.sha256,
        "version": info.version,
        "seconds": info.seconds,
        "peak_bytes": peak_bytes(),
        "plugins": info.plugins,
    }


def peak_bytes() -> int:
    """Return the peak resident memory of this process so far, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def _result(content: Mapping[str, Any]) -> Built:
    if "os_error" in content:
        raise OSError(*content["os_error"])
    if "error" in content:
        raise (BuilderMemoryError if content["memory"] else EngineError)(content["error"])
    return Built(**{**content, "plugins": plugins_of(content["plugins"])})


def _crash(job: Job, code: int, said: str) -> EngineError:
    name = job.onnx_file.name
    if code == -signal.SIGKILL or "bad_alloc" in said:
        return BuilderMemoryError(
            f"{name}: the builder was killed, most likely for memory; lower --max-host-mem to cut it into parts"
        )
    last = said.strip().splitlines()[-1:] or ["it said nothing"]
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return EngineError(f"{name}: the builder crashed ({how}: {last[0]}); report this graph, or try another --attention")


def _to_json(job: Job) -> dict[str, Any]:
    return {
        "onnx_file": str(job.onnx_file),
        "plan_file": str(job.plan_file),
        "flavour": job.flavour,
        "target": job.target,
        "profiles": list(job.profiles),
        "workspace_bytes": job.workspace_bytes,
    }


def _from_json(content: Mapping[str, Any]) -> Job:
    return Job(
        onnx_file=Path(content["onnx_file"]),
        plan_file=Path(content["plan_file"]),
        flavour=content["flavour"],
        target=content["target"],
        profiles=[profile_of(profile) for profile in content["profiles"]],
        workspace_bytes=content["workspace_bytes"],
    )


if __name__ == "__main__":
    main()
