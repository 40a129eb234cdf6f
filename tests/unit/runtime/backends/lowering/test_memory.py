"""When weights are packed, and what the machine says of itself."""

from pathlib import Path

import numpy as np
import pytest

from internvl_edge.runtime.backends import SessionOptions
from internvl_edge.runtime.backends.lowering import cpu
from internvl_edge.runtime.backends.lowering.memory import available_bytes
from internvl_edge.runtime.backends.lowering.onnx_model import OnnxModel
from internvl_edge.runtime.backends.lowering.prepacking import choose_prepacking, packed_bytes
from internvl_edge.runtime.backends.lowering.processor import multiplies_bf16, sums_of_bytes_saturate
from internvl_edge.runtime.backends.onnxruntime import OnnxRuntimeSession
from tests.unit.runtime.lowered_graphs import write_graph

TEXT = "plain (float[1, 64] x) => (float[1, 64] y) { t = Transpose<perm = [1, 0]>(w) y = MatMul(x, t) }"


@pytest.fixture
def path(tmp_path: Path, rng: np.random.Generator) -> Path:
    return write_graph(tmp_path, TEXT, {"w": rng.normal(size=(64, 64)).astype(np.float32)})


def test_weights_are_packed_while_a_quarter_stays_free(path: Path) -> None:
    model = OnnxModel(path.read_bytes(), path.parent)
    needed = packed_bytes(model)
    assert needed == 64 * 64 * 4
    assert choose_prepacking(model, needed * 2).reason == "packed"
    assert choose_prepacking(model, None).reason == "packed"
    mapped = choose_prepacking(model, needed)
    assert mapped.reason.startswith("mapped, which is slower: packed they take 0.0 GiB")
    assert choose_prepacking(model, None).arena
    assert not mapped.arena  # it would keep every weight that a run transposes


def test_mapped_weights_give_the_same(path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    x = {"x": rng.normal(size=(1, 64)).astype(np.float32)}
    packed = OnnxRuntimeSession(path, SessionOptions(threads=1))
    monkeypatch.setattr(cpu, "available_bytes", lambda: 0)
    mapped = OnnxRuntimeSession(path, SessionOptions(threads=1))
    assert (packed.settings["weights"], mapped.settings["weights"][:6]) == ("packed", "mapped")
    np.testing.assert_allclose(mapped.run(x)["y"], packed.run(x)["y"], rtol=1e-5, atol=1e-5)


def test_what_is_available_is_the_less_of_system_and_container(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable: 8 kB\n")
    assert available_bytes(meminfo, tmp_path) == 8 << 10
    (tmp_path / "memory.max").write_text("6000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert available_bytes(meminfo, tmp_path) == 5000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(meminfo, tmp_path) == 8 << 10
    assert available_bytes(tmp_path / "absent", tmp_path) is None


def test_sums_saturate_on_x86_without_vnni(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nflags : fpu avx2 avx512f\n")
    assert sums_of_bytes_saturate("x86_64", cpuinfo)
    assert not sums_of_bytes_saturate("aarch64", cpuinfo)
    cpuinfo.write_text("processor : 0\nflags : fpu avx2 avx512_vnni\n")
    assert not sums_of_bytes_saturate("x86_64", cpuinfo)
    assert sums_of_bytes_saturate("x86_64", tmp_path / "absent")


@pytest.mark.parametrize(
    ("line", "has"),
    [
        ("flags : fpu avx2 avx512f avx512_bf16", True),
        ("flags : fpu amx_bf16 amx_tile", True),
        ("flags : fpu avx512f avx512_fp16", False),
        ("Features : fp asimd bf16 i8mm", True),
        ("Features : fp asimd", False),
    ],
)
def test_products_of_bf16_are_the_processors(tmp_path: Path, line: str, has: bool) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{line}\n")
    assert multiplies_bf16(tmp_path / "cpuinfo") == has
    assert not multiplies_bf16(tmp_path / "absent")
