"""Correctness of the attention kernels on the GPU of this machine, and their time beside torch's own operators.

Usage: ``python benchmarks/attention_gpu.py [FILE.json] [--only KERNEL] [--workers N] [--timings-only]``

Prints a Markdown table; needs torch with CUDA and Triton. First all cases of ``tests/parity/plugins`` run,
also the large ones, in worker processes, which compile the kernels as well. Then times are measured one by one, of a
CUDA graph of ten launches, so that the time of the host is excluded on both sides.
"""

import argparse
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from graph_time import microseconds

KERNELS = ("vit_attention", "qllama_attention", "query_cross_attention", "attention_pool")
_ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Run the cases of the tests, then measure times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--only", action="append", choices=KERNELS)
    parser.add_argument("--workers", type=int, default=max((os.cpu_count() or 1) * 3 // 4, 1))
    parser.add_argument("--timings-only", action="store_true")
    options = parser.parse_args()
    kernels = options.only or KERNELS
    found = [] if options.timings_only else _checked_all(kernels, options.workers)
    for kernel in kernels:
        for what, pair in _timings(kernel).items():
            found.append(_timed(kernel, what, *pair))
            print(_line(found[-1]), flush=True)
    if options.file is not None:
        options.file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _checked_all(kernels: Sequence[str], workers: int) -> list[dict[str, Any]]:
    jobs = [(kernel, kind, name) for kernel in kernels for kind, name in _jobs(kernel)]
    found = []
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_checked, *job) for job in jobs]):
            found.append(done.result())
            print(_line(found[-1]), flush=True)
    return found


def _jobs(kernel: str) -> list[tuple[str, str]]:
    cases = [("case", case.id) for case in _cases(kernel).CASES]
    return [*cases, *(("compile", name) for name in _timings(kernel, "meta"))]


def _cases(kernel: str) -> Any:
    if str(_ROOT) not in sys.path:
        sys.path.insert(0, str(_ROOT))
    return importlib.import_module(f"tests.parity.plugins.{kernel}_cases")


def _timings(kernel: str, device: str = "cuda") -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    make = getattr(_cases(kernel), "timings", None)
    return dict(make(device)) if make is not None else {}


def _checked(kernel: str, kind: str, name: str) -> dict[str, Any]:
    start = time.monotonic()
    entry: dict[str, Any] = {"kernel": kernel, kind: name}
    try:
        if kind == "compile":
            _timings(kernel)[name][0]()
        else:
            case = next(case for case in _cases(kernel).CASES if case.id == name)
            entry["error"] = float(_cases(kernel).run_case(case, "cuda"))
    except Exception:
        entry["failed"] = traceback.format_exc()[-1500:]
    return {**entry, "seconds": round(time.monotonic() - start, 2)}


def _timed(kernel: str, what: str, ours: Callable[[], object], theirs: Callable[[], object]) -> dict[str, Any]:
    try:
        return {"kernel": kernel, "timing": what, "ours_us": microseconds(ours), "torch_us": microseconds(theirs)}
    except Exception:
        return {"kernel": kernel, "timing": what, "failed": traceback.format_exc()[-1500:]}


def _line(found: dict[str, Any]) -> str:
    name = found.get("case", found.get("timing", found.get("compile")))
    if "failed" in found:
        return f"FAILED {found['kernel']} {name}: {found['failed'][-500:]}"
    if "ours_us" in found:
        ratio = found["torch_us"] / found["ours_us"]
        return f"| {found['kernel']} | {name} | {found['ours_us']:.1f} | {found['torch_us']:.1f} | {ratio:.2f} |"
    share = f" {found['error']:.2f} of its bound" if "error" in found else " compiled"
    return f"ok {found['kernel']} {name}:{share} ({found['seconds']:.1f} s)"


if __name__ == "__main__":
    main()
