"""A plan built in a process of its own: what comes back, and what a refusal, a crash, a kill and a full disk become."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from internvl_edge.export.engine.build_process import BuilderMemoryError, Job, _crash, _result, build_in_process
from internvl_edge.runtime.bundle.bundle import sha256_file
from internvl_edge.runtime.errors import EngineError

pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx", reason="the extra `rtx` is not installed")

HEADER = '<ir_version: 11, opset_import: ["": 23]>\n'
GELU = "g (float16[b, 4, 4] x) => (float16[b, 4, 4] y) { y = Gelu(x) }"
TWINS = """g (float16[b, 4, 16, 64] x) => (float16[b, 4, 16, 64] y, float16[b, 4, 16, 64] z) {
  v = Relu(x)
  y = Attention(x, x, v)
  z = Attention(x, x, x)
}"""


def job(folder: Path, text: str, *shape: int) -> Job:
    graph = folder / "g.onnx"
    graph.write_bytes(onnx.parser.parse_model(HEADER + text).SerializeToString())
    profile = {"x": ((1, *shape), (2, *shape), (4, *shape))}
    return Job(
        onnx_file=graph, plan_file=folder / "g.plan", flavour="tensorrt_rtx", target="rtx-4090", profiles=[profile]
    )


def test_the_plan_and_what_it_took(tmp_path: Path) -> None:
    built = build_in_process(job(tmp_path, GELU, 4, 4))
    plan = tmp_path / "g.plan"
    assert (built.bytes, built.sha256) == (plan.stat().st_size, sha256_file(plan))
    assert 50 << 20 < built.peak_bytes < 4 << 30
    assert built.seconds > 0
    assert built.plugins == ()


def test_the_plugins_that_a_plan_needs_come_back() -> None:
    took = {"bytes": 4, "sha256": "0", "version": "10.3.0", "seconds": 1.0, "peak_bytes": 1}
    assert _result({**took, "plugins": [["vit_attention", "3"]]}).plugins == (("vit_attention", "3"),)


def test_a_refusal_comes_back_as_it_was_said(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"cannot parse .*Det.*UNSUPPORTED_NODE"):
        build_in_process(job(tmp_path, "g (float16[b, 4, 4] x) => (float16[b] y) { y = Det(x) }", 4, 4))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g.onnx"]


def test_a_library_that_crashes_is_an_error_and_not_the_end(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"g.onnx: the builder crashed .*report this graph") as caught:
        build_in_process(job(tmp_path, TWINS, 4, 16, 64))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "g.plan").exists()


def test_an_unknown_flavour_of_tensorrt_names_the_extra(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"pip install .*internvl-edge\[gpu\]"):
        build_in_process(replace(job(tmp_path, GELU, 4, 4), flavour="tensorrt"))


@pytest.mark.parametrize(("code", "said"), [(-signal.SIGKILL, ""), (-signal.SIGABRT, "what(): std::bad_alloc")])
def test_a_process_that_is_killed_ran_out_of_memory(tmp_path: Path, code: int, said: str) -> None:
    found = _crash(job(tmp_path, GELU, 4, 4), code, said)
    assert isinstance(found, BuilderMemoryError)
    assert "--max-host-mem" in str(found)


@pytest.mark.usefixtures("small_files")
def test_a_full_disk_is_said_as_the_system_says_it(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="File too large"):
        build_in_process(job(tmp_path, GELU, 4, 4))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g.onnx"]


def test_the_child_needs_neither_torch_nor_onnx() -> None:
    modules = ", ".join(
        f"internvl_edge.export.{name}" for name in ("engine.build_process", "engine.builder", "plans.build")
    )
    heavy = "[m for m in ('torch', 'onnx', 'onnx_ir', 'onnxruntime') if m in sys.modules]"
    code = f"import sys, {modules}; print(*{heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
