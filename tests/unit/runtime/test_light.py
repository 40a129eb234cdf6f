"""What the runtime adds to ONNX Runtime's bare session: time of a call, memory, and nothing that grows."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from internvl_edge.runtime import InternVL
from internvl_edge.runtime.backends import SessionOptions
from internvl_edge.runtime.bundle.manifest import SCHEMA, FileInfo, GraphInfo, Manifest
from tests.unit.runtime.tiny_bundle import MODEL

OVERHEAD_MICROSECONDS = 150.0
"""3 % of a graph of 5 ms; about 20 are measured."""
RESIDENT_MIB = 60.0
CALLS = 10_000
GROWTH_KIB = 256.0
"""Of resident memory over all calls, 26 bytes each: what an allocator rounds up to. One lost array a call is more."""
GRAPH = '<ir_version: 10, opset_import: ["": 23]> tiny (float[batch, 8] x) => (float[batch, 8] y) { y = Neg(x) }'
X = np.ones((1, 8), np.float32)

MEMORY_PROBE = """
import json, sys
import numpy as np
def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) / 1024
x, what, path = np.ones((1, 8), np.float32), sys.argv[1], sys.argv[2]
if what == "bare":
    import onnxruntime
    session = onnxruntime.InferenceSession(path + "/onnx/fp32/vision.onnx")
    def run(): session.run(None, {"x": x})
else:
    from internvl_edge.runtime import InternVL
    model = InternVL.open(path, backend="onnxruntime", verify=False)
    def run(): model.run_graph("vision", {"x": x})
for _ in range(1000):
    run()
before = resident()
for _ in range(int(sys.argv[3])):
    run()
print(json.dumps({"resident_mib": resident(), "growth_kib": (resident() - before) * 1024}))
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle whose vision graph is one operator."""
    file = tmp_path / "onnx" / "fp32" / "vision.onnx"
    file.parent.mkdir(parents=True)
    onnx.save(onnx.parser.parse_model(GRAPH), file)
    manifest = Manifest(
        schema=SCHEMA,
        producer={"internvl-edge": "0"},
        model=MODEL,
        precision="fp32",
        graphs={"vision": GraphInfo(file="onnx/fp32/vision.onnx", inputs=(), outputs=())},
        files={"onnx/fp32/vision.onnx": FileInfo(bytes=file.stat().st_size, sha256="0" * 64)},
    )
    manifest.save(tmp_path / "manifest.json")
    return tmp_path


def seconds(run: Callable[[], object], calls: int) -> float:
    """Return the processors' time of one call, of many: what other programs take in the meantime does not count."""
    start = time.process_time()
    for _ in range(calls):
        run()
    return (time.process_time() - start) / calls


def test_a_call_adds_less_than_three_percent_of_five_milliseconds(bundle: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    bare = onnxruntime.InferenceSession(str(bundle / "onnx" / "fp32" / "vision.onnx"), options)
    with InternVL.open(bundle, "onnxruntime", verify=False, options=SessionOptions(threads=1)) as model:
        session = model.session("vision")
        sides = {
            "bare": lambda: bare.run(None, {"x": X}),
            "session": lambda: session.run({"x": X}),
            "model": lambda: model.run_graph("vision", {"x": X}),
        }
        best = {name: min(seconds(run, 100) for _ in range(20)) for name, run in sides.items()}
    assert (best["session"] - best["bare"]) * 1e6 < OVERHEAD_MICROSECONDS
    assert (best["model"] - best["bare"]) * 1e6 < OVERHEAD_MICROSECONDS


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_memory_is_that_of_the_bare_session_and_does_not_grow(bundle: Path) -> None:
    bare, ours = (memory(what, bundle) for what in ("bare", "ours"))
    assert ours["resident_mib"] - bare["resident_mib"] < RESIDENT_MIB
    assert ours["growth_kib"] - max(bare["growth_kib"], 0) < GROWTH_KIB


def memory(what: str, bundle: Path) -> dict[str, float]:
    """Return the memory of a process of its own after many calls."""
    command = [sys.executable, "-c", MEMORY_PROBE, what, str(bundle), str(CALLS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures
