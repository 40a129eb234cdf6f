"""Importing the runtime is quick and loads no library but NumPy."""

import subprocess
import sys

IMPORT_MS = 150
HEAVY = ("torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx_bindings", "PIL", "sentencepiece")
PROBE = f"""
import sys, time
start = time.process_time()  # of this process alone: other work on the machine does not count
import internvl_edge.runtime
internvl_edge.runtime.InternVL
print((time.process_time() - start) * 1e3, *[name for name in {HEAVY!r} if name in sys.modules])
"""


def probe() -> tuple[float, list[str]]:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    import_ms, *loaded = done.stdout.split()
    return float(import_ms), loaded


def test_the_import_is_quick_and_light() -> None:
    probes = [probe() for _ in range(4)]  # the first may compile bytecode
    assert [loaded for _, loaded in probes] == [[]] * len(probes)
    assert min(import_ms for import_ms, _ in probes) < IMPORT_MS
